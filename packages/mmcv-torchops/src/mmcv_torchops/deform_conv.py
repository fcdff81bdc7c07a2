"""Deformable convolution, and its modulated form.

Each tap of the kernel samples the features at a position of its own, which the offsets move. Samples are bilinear, with
zeros around the image. float16 and bfloat16 are computed in float32. The buffers ``columns`` and ``ones`` are not used.

Source: Deformable ConvNets (https://arxiv.org/abs/1703.06211) and v2 (https://arxiv.org/abs/1811.11168),
mmcv/ops/csrc/pytorch/deform_conv.cpp, mmcv/ops/csrc/pytorch/modulated_deform_conv.cpp.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .bilinear import blend_rows, find_corners
from .computing import get_working_dtype, untraced


class Kernel(NamedTuple):
    """The size and the placement of a kernel, as (vertical, horizontal), and the number of groups of channels."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int


@untraced
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolve ``input`` (N, C, H, W) by ``weight`` (D, C / group, kH, kW) into ``output`` (N, D, H', W').

    ``offset`` is (N, deformable_group * kH * kW * 2, H', W') in pixels, y before x. ``dH`` and ``dW`` are the stride.
    ``im2col_step`` images, which must divide N, are computed at a time.
    """
    check_batch(input, im2col_step)
    kernel = Kernel((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    convolve(input, offset, make_neutral_mask(offset), weight, output, kernel, im2col_step)


@untraced
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the gradient of the input to ``gradInput``, and write that of the offset into ``gradOffset``."""
    check_batch(input, im2col_step)
    kernel = Kernel((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    mask = make_neutral_mask(offset)
    grad_mask = torch.empty_like(mask)
    differentiate_samples(
        input, offset, mask, weight, gradOutput, gradInput, gradOffset, grad_mask, kernel, im2col_step
    )


@untraced
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``gradWeight``."""
    check_batch(input, im2col_step)
    kernel = Kernel((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    mask = make_neutral_mask(offset)
    gradWeight.add_(differentiate_weight(input, offset, mask, gradOutput, kernel, im2col_step), alpha=scale)


@untraced
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolve ``input`` (N, C, H, W) by ``weight`` (D, C / group, kernel_h, kernel_w) into ``output`` (N, D, H', W').

    ``offset`` (N, deformable_group * kernel_h * kernel_w * 2, H', W') is in pixels, y before x. Each sample is
    multiplied by ``mask`` (N, deformable_group * kernel_h * kernel_w, H', W'). ``bias`` (D,) is added if ``with_bias``.
    """
    kernel = Kernel(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    convolve(input, offset, mask, weight, output, kernel)
    if with_bias:
        output.add_(bias.view(-1, 1, 1))


@untraced
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of the input, the weight and the bias, and write those of the offset and the mask."""
    kernel = Kernel(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    differentiate_samples(input, offset, mask, weight, grad_output, grad_input, grad_offset, grad_mask, kernel)
    grad_weight.add_(differentiate_weight(input, offset, mask, grad_output, kernel))
    if with_bias:
        grad_bias.add_(grad_output.sum((0, 2, 3), dtype=get_working_dtype(grad_output)))


def check_batch(input: Tensor, im2col_step: int) -> None:
    """Raise if the batch is not a multiple of ``im2col_step``."""
    if len(input) % im2col_step:
        raise RuntimeError(f"the batch size, {len(input)}, must be a multiple of im2col_step, {im2col_step}")


def make_neutral_mask(offset: Tensor) -> Tensor:
    """Return the mask that changes nothing: ones of shape (N, offset_groups * taps, H', W')."""
    return torch.ones_like(offset[:, ::2])


def split_batch(tensors: tuple[Tensor, ...], step: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield ``step`` images of each tensor at a time."""
    for start in range(0, len(tensors[0]), step):
        yield tuple(tensor[start : start + step] for tensor in tensors)


def convolve(
    input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, output: Tensor, kernel: Kernel, step: int = 1
) -> None:
    """Write the convolution into ``output``, ``step`` images at a time."""
    matrix = make_weight_matrix(weight, kernel).transpose(1, 2)
    for features, moves, factors, result in split_batch((input, offset, mask, output), step):
        columns = make_columns(features, moves, factors, kernel)
        # Products in place keep their precision under autocast.
        product = columns.new_empty(kernel.groups, columns.shape[1], matrix.shape[2])
        product.baddbmm_(columns, matrix, beta=0)
        batch, channels, height, width = result.shape
        result.copy_(product.transpose(0, 1).reshape(batch, height, width, channels).permute(0, 3, 1, 2))


def differentiate_samples(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    kernel: Kernel,
    step: int = 1,
) -> None:
    """Add the gradient of the input to ``grad_input``, and write those of the offset and the mask."""
    matrix = make_weight_matrix(weight, kernel)
    tensors = input, offset, mask, grad_output, grad_input, grad_offset, grad_mask
    for features, moves, factors, grad, grad_features, grad_moves, grad_factors in split_batch(tensors, step):
        sources = [source.detach().requires_grad_() for source in (features, moves, factors)]
        with torch.enable_grad():
            columns = make_columns(*sources, kernel)
        grad_columns = torch.empty_like(columns).baddbmm_(make_gradient_matrix(grad, kernel), matrix, beta=0)
        gradients = torch.autograd.grad(columns, sources, grad_columns)
        grad_features.add_(gradients[0])
        grad_moves.copy_(gradients[1])
        grad_factors.copy_(gradients[2])


def differentiate_weight(
    input: Tensor, offset: Tensor, mask: Tensor, grad_output: Tensor, kernel: Kernel, step: int = 1
) -> Tensor:
    """Return the gradient of the weight, in the precision of the computation."""
    height, width = kernel.size
    total = input.new_zeros(
        kernel.groups,
        grad_output.shape[1] // kernel.groups,
        height * width * (input.shape[1] // kernel.groups),
        dtype=get_working_dtype(input),
    )
    for features, moves, factors, grad in split_batch((input, offset, mask, grad_output), step):
        columns = make_columns(features, moves, factors, kernel)
        total.baddbmm_(make_gradient_matrix(grad, kernel).transpose(1, 2), columns)
    return total.view(grad_output.shape[1], height, width, -1).permute(0, 3, 1, 2)


def make_weight_matrix(weight: Tensor, kernel: Kernel) -> Tensor:
    """Return a weight (D, C / groups, height, width) as a matrix per group: (groups, D / groups, taps * C / groups)."""
    matrix = weight.to(get_working_dtype(weight)).permute(0, 2, 3, 1)
    return matrix.reshape(kernel.groups, len(weight) // kernel.groups, -1)


def make_gradient_matrix(grad: Tensor, kernel: Kernel) -> Tensor:
    """Return the gradient of an output (n, D, H', W') as a matrix per group: (groups, n * H' * W', D / groups)."""
    grad = grad.to(get_working_dtype(grad)).unflatten(1, (kernel.groups, -1))
    return grad.permute(1, 0, 3, 4, 2).flatten(1, 3)


def make_columns(input: Tensor, offset: Tensor, mask: Tensor, kernel: Kernel) -> Tensor:
    """Return the samples of all taps, of shape (groups, n * H' * W', taps * C / groups). It is differentiable."""
    dtype = get_working_dtype(input)
    batch, channels, height, width = input.shape
    y, x = locate_taps(offset.to(dtype), kernel)
    _, points, taps, offset_groups = y.shape
    pixel, share = find_corners(y, x, height, width)
    image = torch.arange(batch, device=input.device).view(-1, 1, 1, 1, 1)
    group = torch.arange(offset_groups, device=input.device).view(-1, 1)
    row = (image * (height * width) + pixel) * offset_groups + group
    factor = mask.to(dtype).reshape(batch, offset_groups, taps, points).permute(0, 3, 2, 1)
    rows = input.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels // offset_groups)
    samples = blend_rows(rows, row.flatten(0, 3), (share * factor[..., None]).flatten(0, 3))
    samples = samples.view(batch * points, taps, kernel.groups, channels // kernel.groups)
    return samples.permute(2, 0, 1, 3).flatten(2)


def locate_taps(offset: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Return y and x of the samples, of shape (n, H' * W', taps, offset_groups)."""
    batch, _, height, width = offset.shape
    taps = kernel.size[0] * kernel.size[1]
    point = torch.arange(height * width, device=offset.device)[:, None]
    tap = torch.arange(taps, device=offset.device)
    y = point // width * kernel.stride[0] - kernel.padding[0] + tap // kernel.size[1] * kernel.dilation[0]
    x = point % width * kernel.stride[1] - kernel.padding[1] + tap % kernel.size[1] * kernel.dilation[1]
    moves = offset.reshape(batch, kernel.offset_groups, taps, 2, height * width).permute(3, 0, 4, 2, 1)
    return y[..., None] + moves[0], x[..., None] + moves[1]
