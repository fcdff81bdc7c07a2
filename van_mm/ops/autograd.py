"""Gradients and output shapes of the CPU kernels, as PyTorch needs them."""

import torch
from torch import Tensor


def depthwise_conv_backward(
    x: Tensor, weight: Tensor, grad: Tensor, dilation: int, needed: tuple[bool, ...] = (True, True, True)
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a depth-wise convolution that keeps the spatial size.

    Args:
        x (Tensor): Input (N, C, H, W).
        weight (Tensor): Weight (C, 1, K, K) with odd K.
        grad (Tensor): Gradient (N, C, H, W) of the output.
        dilation (int): Distance between taps.
        needed (tuple[bool, ...]): Whether to compute the gradient of the input, weight and bias. Defaults to all three.

    Returns:
        tuple: Gradients of the input (N, C, H, W), weight (C, 1, K, K) and bias (C,). None stands for a gradient that
        is not needed.
    """
    need_x, need_weight, need_bias = needed
    # The input's gradient is the output's gradient convolved with the flipped kernel.
    grad_x = torch.ops.van_mm.dwconv(grad, weight.flip(2, 3), None, dilation) if need_x else None
    grad_weight = torch.ops.van_mm.dwconv_weight_grad(x, grad, weight.shape[2], dilation) if need_weight else None
    return grad_x, grad_weight, grad.sum((0, 2, 3), dtype=torch.float32) if need_bias else None


def register_operators() -> None:
    """Register the kernels' output shapes and gradients, for autograd, ``torch.compile`` and export."""

    @torch.library.register_fake("van_mm::dwconv")
    def _(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool = False) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    @torch.library.register_fake("van_mm::dwconv_weight_grad")
    def _(x: Tensor, grad: Tensor, kernel: int, dilation: int) -> Tensor:
        return x.new_empty(x.shape[1], 1, kernel, kernel, dtype=torch.float32)

    def setup_context(ctx, inputs, output) -> None:
        x, weight, bias, ctx.dilation, gelu = inputs
        if gelu:
            raise NotImplementedError("van_mm::dwconv has no gradient with gelu=True. Apply GELU to its output.")
        ctx.save_for_backward(x, weight)

    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *depthwise_conv_backward(*ctx.saved_tensors, grad, ctx.dilation, ctx.needs_input_grad[:3]), None, None

    torch.library.register_autograd("van_mm::dwconv", backward, setup_context=setup_context)
