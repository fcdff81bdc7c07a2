"""A VAN block computed by the CPU kernels of :mod:`van_mm.ops` in a few passes over memory.

BatchNorm computes ``slope x + shift`` with one slope and one shift a channel. In training they depend on the batch. The
1x1 convolution after the norm absorbs both, and the last 1x1 convolution of a branch absorbs LayerScale. This leaves
only convolutions, GELU and the gate.

The backward pass recomputes element-wise results instead of saving them: the outputs of BatchNorm and GELU, the gated
product, and the input of LayerScale.
"""

from functools import wraps

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from van_mm.ops.autograd import depthwise_conv_backward
from van_mm.ops.dispatch import can_use_kernels, get_compute_dtype, get_pointwise_convs

kernels = torch.ops.van_mm


def compute_affine(norm: _BatchNorm, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``slope`` and ``shift`` (C,) of BatchNorm with these statistics (C,), in the precision of ``var``."""
    slope = norm.weight * (var + norm.eps).rsqrt()
    return slope, norm.bias - mean * slope


def get_norm_statistics(norm: _BatchNorm, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean and variance (C,) of ``x`` (N, C, H, W) in training mode, otherwise the running ones."""
    return BatchStatistics.apply(x, norm) if norm.training else (norm.running_mean, norm.running_var)


def get_layer_scales(block: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the LayerScale factors (C,) of a block's two branches; without LayerScale they are ones."""
    gammas = block.layer_scale_1, block.layer_scale_2
    return tuple(torch.ones_like(block.norm1.weight) if gamma is None else gamma for gamma in gammas)


class BatchStatistics(torch.autograd.Function):
    """Mean and biased variance (C,) of a batch (N, C, H, W). They also update a BatchNorm's running statistics."""

    @staticmethod
    def forward(ctx, x, norm):
        norm.num_batches_tracked.add_(1)
        x = x.contiguous(memory_format=torch.channels_last)
        mean, var = torch.batch_norm_update_stats(x, norm.running_mean, norm.running_var, norm.momentum)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean, grad_var):
        x, mean = ctx.saved_tensors
        slope = 2 * grad_var * (x.shape[1] / x.numel())
        shift = grad_mean * (x.shape[1] / x.numel()) - slope * mean
        return torch.addcmul(shift.view(1, -1, 1, 1), x, slope.view(1, -1, 1, 1)), None


def flatten_pixels(x: Tensor) -> Tensor:
    """Return a channels-last map (N, C, H, W) as a matrix (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def pack_weight(x: Tensor, weight: Tensor, **options) -> Tensor:
    """Return the weight (O, I, 1, 1) of a 1x1 convolution in the layout that the kernels need for the type of ``x``."""
    return kernels.pack(weight, half=x.dtype == torch.bfloat16, **options)


def compute_input_grad(grad: Tensor, weight: Tensor, **options) -> Tensor:
    """Return the gradient (N, I, H, W) of a 1x1 convolution's input, given the gradient (N, O, H, W) of its output."""
    # In float32 the kernels also accept a weight that is not packed. Seen from the output, (O, I) is the transpose.
    transposed = weight.flatten(1) if grad.dtype == torch.float32 else pack_weight(grad, weight.transpose(0, 1))
    return kernels.pointwise(grad, transposed, weight.new_zeros(weight.shape[1]), **options)


def compute_weight_grads(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 gradients of the weight (O, I, 1, 1) and bias (O,) of a 1x1 convolution of ``x``."""
    return (flatten_pixels(grad).t() @ flatten_pixels(x)).float()[..., None, None], grad.sum(
        (0, 2, 3), dtype=torch.float32
    )


class NormPointwise:
    """A 1x1 convolution of ``slope x + shift``, the output of BatchNorm."""

    @staticmethod
    def forward(x: Tensor, slope: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, **options) -> Tensor:
        bias = bias + weight.flatten(1) @ shift
        return kernels.pointwise(x, pack_weight(x, weight, in_scale=slope), bias, **options)

    @staticmethod
    def backward(grad: Tensor, x: Tensor, slope: Tensor, shift: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of slope, shift, weight and bias."""
        dw, db = compute_weight_grads(x, grad)
        return *kernels.unpack_norm(dw, db, weight, slope, shift), dw, db


class ScaledPointwise:
    """A 1x1 convolution multiplied by LayerScale's ``gamma``."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, **options) -> Tensor:
        return kernels.pointwise(x, pack_weight(x, weight, out_scale=gamma), bias * gamma, **options)

    @staticmethod
    def backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of weight, bias and gamma."""
        dw, db = compute_weight_grads(x, grad)
        dgamma = kernels.unpack_scale(dw, weight, gamma)
        return dw, db * gamma, dgamma + db * bias


class FusedAttention(torch.autograd.Function):
    """The attention branch, ``gamma (proj_2(LKA(gelu(proj_1(n)))) + n)`` with ``n = slope x + shift``.

    The inputs are ``x`` (N, C, H, W), ``slope``, ``shift`` and ``gamma`` (C,), the weights and biases of proj_1, conv0,
    conv_spatial, conv1 and proj_2, and LKA's dilation. ``x`` may be bfloat16 while the parameters are float32.
    """

    @staticmethod
    def forward(
        ctx, x, slope, shift, gamma, w1, b1, w_local, b_local, w_wide, b_wide, w_gate, b_gate, w2, b2, dilation
    ):
        before = NormPointwise.forward(x, slope, shift, w1, b1)
        u = kernels.gelu(before)
        local = kernels.dwconv(u, w_local, b_local, 1)
        wide = kernels.dwconv(local, w_wide, b_wide, dilation)
        gate = kernels.pointwise(wide, pack_weight(x, w_gate), b_gate)
        ctx.dilation = dilation
        ctx.save_for_backward(x, before, local, wide, gate, slope, shift, gamma, w1, w_local, w_wide, w_gate, w2, b2)
        return ScaledPointwise.forward(u.mul_(gate), w2, b2 + shift, gamma, plus=x, slope=gamma * slope)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, before, local, wide, gate, slope, shift, gamma, w1, w_local, w_wide, w_gate, w2, b2 = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        u = kernels.gelu(before)
        dw2, db2, dgamma = ScaledPointwise.backward(grad, u * gate, w2, b2 + shift, gamma)
        dgated = compute_input_grad(grad * gamma.view(-1, 1, 1).to(grad.dtype), w2)
        dgate, du = dgated * u, dgated.mul_(gate)
        dw_gate, db_gate = compute_weight_grads(wide, dgate)
        dwide = compute_input_grad(dgate, w_gate)
        dlocal, dw_wide, db_wide = depthwise_conv_backward(local, w_wide, dwide, ctx.dilation)
        du_lka, dw_local, db_local = depthwise_conv_backward(u, w_local, dlocal, 1)
        dbefore = kernels.gelu_backward(du.add_(du_lka), before)
        dslope, dshift, dw1, db1 = NormPointwise.backward(dbefore, x, slope, shift, w1)
        dx = compute_input_grad(dbefore, w1, scale=slope, plus=grad, slope=gamma * slope)
        # The shortcut inside the branch adds gamma (slope x + shift). dfactor is the gradient of gamma slope.
        dfactor = (grad * x).sum((0, 2, 3), dtype=torch.float32)
        dslope, dshift, dgamma = dslope + dfactor * gamma, dshift + db2, dgamma + dfactor * slope
        grads = (dw1, db1, dw_local, db_local, dw_wide, db_wide, dw_gate, db_gate, dw2, db2)
        return dx, dslope, dshift, dgamma, *grads, None


class FusedFeedForward(torch.autograd.Function):
    """The feed-forward branch, ``gamma fc2(gelu(dwconv(fc1(slope x + shift))))``.

    The inputs are ``x`` (N, C, H, W), ``slope``, ``shift`` and ``gamma`` (C,), and the weights and biases of fc1,
    dwconv and fc2.
    """

    @staticmethod
    def forward(ctx, x, slope, shift, gamma, w1, b1, w, b, w2, b2):
        hidden = NormPointwise.forward(x, slope, shift, w1, b1)
        before = kernels.dwconv(hidden, w, b, 1)
        ctx.save_for_backward(x, hidden, before, slope, shift, gamma, w1, w, w2, b2)
        return ScaledPointwise.forward(kernels.gelu(before), w2, b2, gamma)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, hidden, before, slope, shift, gamma, w1, w, w2, b2 = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        dw2, db2, dgamma = ScaledPointwise.backward(grad, kernels.gelu(before), w2, b2, gamma)
        dbefore = compute_input_grad(grad * gamma.view(-1, 1, 1).to(grad.dtype), w2, before=before)
        dhidden, dw, db = depthwise_conv_backward(hidden, w, dbefore, 1)
        dslope, dshift, dw1, db1 = NormPointwise.backward(dhidden, x, slope, shift, w1)
        dx = compute_input_grad(dhidden, w1, scale=slope)
        return dx, dslope, dshift, dgamma, dw1, db1, dw, db, dw2, db2


def forward_with_grad(block: nn.Module, x: Tensor) -> Tensor:
    """Return ``block(x)`` with gradients, in training or eval mode.

    Args:
        block (nn.Module): A :class:`~van_mm.models.backbones.van.Block` that
            :func:`~van_mm.ops.dispatch.can_use_kernels` accepts.
        x (Tensor): Input (N, C, H, W).
    """
    attn, lka, mlp = block.attn, block.attn.spatial_gating_unit, block.mlp
    dtype, (gamma_1, gamma_2) = get_compute_dtype(x), get_layer_scales(block)
    with torch.autocast("cpu", enabled=False):
        convs = (attn.proj_1, lka.conv0, lka.conv_spatial, lka.conv1, attn.proj_2)
        weights = [p for conv in convs for p in (conv.weight, conv.bias)]
        affine = compute_affine(block.norm1, *get_norm_statistics(block.norm1, x))
        branch = FusedAttention.apply(x.to(dtype), *affine, gamma_1, *weights, lka.conv_spatial.dilation[0])
        x = x + block.drop_path(branch)
        weights = [p for conv in (mlp.fc1, mlp.dwconv.dwconv, mlp.fc2) for p in (conv.weight, conv.bias)]
        affine = compute_affine(block.norm2, *get_norm_statistics(block.norm2, x))
        return x + block.drop_path(FusedFeedForward.apply(x.to(dtype), *affine, gamma_2, *weights))


def forward_without_grad(block: nn.Module, x: Tensor, weights: list[tuple[Tensor, Tensor]], shortcut: Tensor) -> Tensor:
    """Return ``block(x)`` in eval mode, without gradients.

    Args:
        block (nn.Module): A :class:`~van_mm.models.backbones.van.Block` or
            :class:`~van_mm.models.utils.fold.FoldedBlock` that :func:`~van_mm.ops.dispatch.can_use_kernels` accepts.
        x (Tensor): Input (N, C, H, W) in the type to compute in.
        weights (list): Pairs of packed weight and bias of proj_1, conv1, proj_2, fc1 and fc2, which have absorbed the
            norms and LayerScale.
        shortcut (Tensor): Factor (C,) by which ``x`` is added to the attention branch.
    """
    lka, conv = block.attn.spatial_gating_unit, block.mlp.dwconv.dwconv
    proj_1, conv1, proj_2, fc1, fc2 = weights
    u = kernels.pointwise(x, *proj_1, gelu=True)
    attn = kernels.dwconv(u, lka.conv0.weight, lka.conv0.bias, 1)
    attn = kernels.dwconv(attn, lka.conv_spatial.weight, lka.conv_spatial.bias, lka.conv_spatial.dilation[0])
    x = kernels.pointwise(kernels.pointwise(attn, *conv1, times=u), *proj_2, plus=x, slope=shortcut)
    return kernels.feed_forward(x, *fc1, conv.weight, conv.bias, *fc2)


def run_fused_where_possible(block_class: type[nn.Module]) -> type[nn.Module]:
    """Decorate a block class to run fused on inputs that :func:`~van_mm.ops.dispatch.can_use_kernels` accepts."""
    forward = block_class.forward

    @wraps(forward)
    def forward_fused_or_plain(self: nn.Module, x: Tensor) -> Tensor:
        return run_fused(self, x) if can_use_kernels(self, x) else forward(self, x)

    block_class.forward = forward_fused_or_plain
    return block_class


def run_fused(block: nn.Module, x: Tensor) -> Tensor:
    """Return ``block(x)`` for a block that :func:`~van_mm.ops.dispatch.can_use_kernels` accepts."""
    if torch.is_grad_enabled() or block.training:
        return forward_with_grad(block, x)
    x = x.to(get_compute_dtype(x))
    return forward_without_grad(block, x, *absorb_norms(block, x))


def absorb_norms(block: nn.Module, x: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return the ``weights`` and ``shortcut`` of :func:`forward_without_grad` for a block in eval mode."""
    proj_1, conv1, proj_2, fc1, fc2 = get_pointwise_convs(block)
    gamma_1, gamma_2 = get_layer_scales(block)
    (slope_1, shift_1), (slope_2, shift_2) = (
        compute_affine(norm, *get_norm_statistics(norm)) for norm in (block.norm1, block.norm2)
    )
    weights = [
        (pack_weight(x, proj_1.weight, in_scale=slope_1), proj_1.bias + proj_1.weight.flatten(1) @ shift_1),
        (pack_weight(x, conv1.weight), conv1.bias),
        (pack_weight(x, proj_2.weight, out_scale=gamma_1), (proj_2.bias + shift_1) * gamma_1),
        (pack_weight(x, fc1.weight, in_scale=slope_2), fc1.bias + fc1.weight.flatten(1) @ shift_2),
        (pack_weight(x, fc2.weight, out_scale=gamma_2), fc2.bias * gamma_2),
    ]
    return weights, 1 + slope_1 * gamma_1
