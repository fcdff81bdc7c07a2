"""A block's branches as a few passes over memory, by the kernels of :mod:`van_mm.ops`.

BatchNorm is ``slope x + shift`` by channel, in training too, where the factors depend on the batch. The 1x1 convolution
behind it can do that itself, and the one at a branch's end can do LayerScale, so that only convolutions, GELU and the
gate are left. For the gradients nothing is kept that element-wise operations give again: not the outcomes of BatchNorm
and GELU, not the gate's product, not what LayerScale is multiplied with.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from van_mm import ops

kernels = torch.ops.van_mm


def affine(norm: _BatchNorm, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """The (C,) factors and summands that BatchNorm is with these statistics (C,), in their precision."""
    slope = norm.weight * (var + norm.eps).rsqrt()
    return slope, norm.bias - mean * slope


def statistics(norm: _BatchNorm, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) that BatchNorm takes: the running ones, in training mode those of ``x`` (N, C, H, W)."""
    return BatchStatistics.apply(x, norm) if norm.training else (norm.running_mean, norm.running_var)


def layer_scales(block: nn.Module) -> tuple[Tensor, Tensor]:
    """LayerScale (C,) of a Block's two branches, ones where there is none."""
    gammas = block.layer_scale_1, block.layer_scale_2
    return tuple(torch.ones_like(block.norm1.weight) if gamma is None else gamma for gamma in gammas)


def products(block: nn.Module) -> tuple[nn.Module, ...]:
    """The 1x1 convolutions of a block: proj_1, conv1, proj_2, fc1, fc2."""
    attn, mlp = block.attn, block.mlp
    return attn.proj_1, attn.spatial_gating_unit.conv1, attn.proj_2, mlp.fc1, mlp.fc2


class BatchStatistics(torch.autograd.Function):
    """Mean and variance (C,) of a batch (N, C, H, W); a BatchNorm's running ones follow them."""

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


def rows(x: Tensor) -> Tensor:
    """A channels-last map (N, C, H, W) as a matrix (N H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def pack(x: Tensor, weight: Tensor, **options) -> Tensor:
    """The weight (O, I, 1, 1) of a 1x1 convolution of ``x`` as the kernels take it, see ``kernels.cpp``."""
    return kernels.pack(weight, half=x.dtype == torch.bfloat16, **options)


def back(grad: Tensor, weight: Tensor, **options) -> Tensor:
    """The gradient of a 1x1 convolution's input."""
    turned = weight.flatten(1) if grad.dtype == torch.float32 else pack(grad, weight.transpose(0, 1))
    return kernels.pointwise(grad, turned, weight.new_zeros(weight.shape[1]), **options)


def weight_grads(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the weight (O, I, 1, 1) and bias (O,) of a 1x1 convolution of ``x``."""
    return (rows(grad).t() @ rows(x)).float()[..., None, None], grad.sum((0, 2, 3), dtype=torch.float32)


class NormProduct:
    """A 1x1 convolution of ``slope x + shift``, the outcome of BatchNorm."""

    @staticmethod
    def forward(x: Tensor, slope: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, **options) -> Tensor:
        bias = bias + weight.flatten(1) @ shift
        return kernels.pointwise(x, pack(x, weight, in_scale=slope), bias, **options)

    @staticmethod
    def backward(grad: Tensor, x: Tensor, slope: Tensor, shift: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Gradients of slope, shift, weight and bias."""
        dw, db = weight_grads(x, grad)
        return *kernels.unpack_norm(dw, db, weight, slope, shift), dw, db


class ScaleProduct:
    """A 1x1 convolution times LayerScale ``gamma``."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, **options) -> Tensor:
        return kernels.pointwise(x, pack(x, weight, out_scale=gamma), bias * gamma, **options)

    @staticmethod
    def backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        """Gradients of weight, bias and gamma."""
        dw, db = weight_grads(x, grad)
        dgamma = kernels.unpack_scale(dw, weight, gamma)
        return dw, db * gamma, dgamma + db * bias


class Attention(torch.autograd.Function):
    """``gamma (proj_2(LKA(gelu(proj_1(n)))) + n)`` of ``n = slope x + shift``: the attention branch.

    Takes ``x`` (N, C, H, W), ``slope``, ``shift`` and ``gamma`` (C,), weight and bias of proj_1, conv0, conv_spatial,
    conv1 and proj_2, and LKA's dilation. ``x`` may be bfloat16 with parameters in float32.
    """

    @staticmethod
    def forward(ctx, x, slope, shift, gamma, w1, b1, w_near, b_near, w_far, b_far, w_gate, b_gate, w2, b2, dilation):
        before = NormProduct.forward(x, slope, shift, w1, b1)
        u = kernels.gelu(before)
        near = kernels.dwconv(u, w_near, b_near, 1)
        far = kernels.dwconv(near, w_far, b_far, dilation)
        gate = kernels.pointwise(far, pack(x, w_gate), b_gate)
        ctx.dilation = dilation
        ctx.save_for_backward(x, before, near, far, gate, slope, shift, gamma, w1, w_near, w_far, w_gate, w2, b2)
        return ScaleProduct.forward(u.mul_(gate), w2, b2 + shift, gamma, plus=x, slope=gamma * slope)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, before, near, far, gate, slope, shift, gamma, w1, w_near, w_far, w_gate, w2, b2 = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        u = kernels.gelu(before)
        dw2, db2, dgamma = ScaleProduct.backward(grad, u * gate, w2, b2 + shift, gamma)
        dgated = back(grad * gamma.view(-1, 1, 1).to(grad.dtype), w2)
        dgate, du = dgated * u, dgated.mul_(gate)
        dw_gate, db_gate = weight_grads(far, dgate)
        dnear, dw_far, db_far = ops.dwconv_backward(near, w_far, back(dgate, w_gate), ctx.dilation)
        dlocal, dw_near, db_near = ops.dwconv_backward(u, w_near, dnear, 1)
        dbefore = kernels.gelu_backward(du.add_(dlocal), before)
        dslope, dshift, dw1, db1 = NormProduct.backward(dbefore, x, slope, shift, w1)
        dx = back(dbefore, w1, scale=slope, plus=grad, slope=gamma * slope)
        direct = (grad * x).sum((0, 2, 3), dtype=torch.float32)
        dslope, dshift, dgamma = dslope + direct * gamma, dshift + db2, dgamma + direct * slope
        grads = (dw1, db1, dw_near, db_near, dw_far, db_far, dw_gate, db_gate, dw2, db2)
        return dx, dslope, dshift, dgamma, *grads, None


class FeedForward(torch.autograd.Function):
    """``gamma fc2(gelu(dwconv(fc1(slope x + shift))))``: the feed-forward branch."""

    @staticmethod
    def forward(ctx, x, slope, shift, gamma, w1, b1, w, b, w2, b2):
        hidden = NormProduct.forward(x, slope, shift, w1, b1)
        before = kernels.dwconv(hidden, w, b, 1)
        ctx.save_for_backward(x, hidden, before, slope, shift, gamma, w1, w, w2, b2)
        return ScaleProduct.forward(kernels.gelu(before), w2, b2, gamma)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, hidden, before, slope, shift, gamma, w1, w, w2, b2 = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        dw2, db2, dgamma = ScaleProduct.backward(grad, kernels.gelu(before), w2, b2, gamma)
        dbefore = back(grad * gamma.view(-1, 1, 1).to(grad.dtype), w2, before=before)
        dhidden, dw, db = ops.dwconv_backward(hidden, w, dbefore, 1)
        dslope, dshift, dw1, db1 = NormProduct.backward(dhidden, x, slope, shift, w1)
        dx = back(dhidden, w1, scale=slope)
        return dx, dslope, dshift, dgamma, dw1, db1, dw, db, dw2, db2


def train(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)`` of a :class:`~van_mm.models.van.Block` that :func:`usable` has accepted, with gradients."""
    attn, lka, mlp = block.attn, block.attn.spatial_gating_unit, block.mlp
    dtype, (gamma_1, gamma_2) = dtype_for(x), layer_scales(block)
    with torch.autocast("cpu", enabled=False):
        convs = (attn.proj_1, lka.conv0, lka.conv_spatial, lka.conv1, attn.proj_2)
        weights = [p for conv in convs for p in (conv.weight, conv.bias)]
        factors = affine(block.norm1, *statistics(block.norm1, x))
        branch = Attention.apply(x.to(dtype), *factors, gamma_1, *weights, lka.conv_spatial.dilation[0])
        x = x + block.drop_path(branch)
        weights = [p for conv in (mlp.fc1, mlp.dwconv.dwconv, mlp.fc2) for p in (conv.weight, conv.bias)]
        factors = affine(block.norm2, *statistics(block.norm2, x))
        return x + block.drop_path(FeedForward.apply(x.to(dtype), *factors, gamma_2, *weights))


def infer(block: nn.Module, x: Tensor, weights: list[tuple[Tensor, Tensor]], shortcut: Tensor) -> Tensor:
    """``block(x)`` without gradients.

    Args:
        block (nn.Module): A Block or :class:`~van_mm.models.fold.FoldedBlock` that :func:`usable` has accepted.
        x (Tensor): (N, C, H, W).
        weights (list): Packed weight, and bias, of proj_1, conv1, proj_2, fc1 and fc2, norms and LayerScale absorbed.
        shortcut (Tensor): (C,) factors of ``x`` in the attention half.
    """
    lka, conv = block.attn.spatial_gating_unit, block.mlp.dwconv.dwconv
    proj_1, conv1, proj_2, fc1, fc2 = weights
    u = kernels.pointwise(x, *proj_1, gelu=True)
    far = kernels.dwconv(u, lka.conv0.weight, lka.conv0.bias, 1)
    far = kernels.dwconv(far, lka.conv_spatial.weight, lka.conv_spatial.bias, lka.conv_spatial.dilation[0])
    x = kernels.pointwise(kernels.pointwise(far, *conv1, times=u), *proj_2, plus=x, slope=shortcut)
    return kernels.feed_forward(x, *fc1, conv.weight, conv.bias, *fc2)


def run(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)`` of a Block that :func:`usable` has accepted."""
    if torch.is_grad_enabled() or block.training:
        return train(block, x)
    x = x.to(dtype_for(x))
    return infer(block, x, *absorbed(block, x))


def absorbed(block: nn.Module, x: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The last two arguments of :func:`infer` for a Block in eval mode."""
    proj_1, conv1, proj_2, fc1, fc2 = products(block)
    gamma_1, gamma_2 = layer_scales(block)
    (slope_1, shift_1), (slope_2, shift_2) = (affine(norm, *statistics(norm)) for norm in (block.norm1, block.norm2))
    weights = [
        (pack(x, proj_1.weight, in_scale=slope_1), proj_1.bias + proj_1.weight.flatten(1) @ shift_1),
        (pack(x, conv1.weight), conv1.bias),
        (pack(x, proj_2.weight, out_scale=gamma_1), (proj_2.bias + shift_1) * gamma_1),
        (pack(x, fc1.weight, in_scale=slope_2), fc1.bias + fc1.weight.flatten(1) @ shift_2),
        (pack(x, fc2.weight, out_scale=gamma_2), fc2.bias * gamma_2),
    ]
    return weights, 1 + slope_1 * gamma_1


def dtype_for(x: Tensor) -> torch.dtype:
    """What the kernels compute in: what autocast asks for, or what ``x`` is."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def usable(block: nn.Module, x: Tensor) -> bool:
    """Whether the kernels may stand for ``block`` on ``x``: VAN's standard block on the CPU, neither traced nor
    compiled, and nobody watching its inner modules through hooks."""
    if not ops.loaded or x.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    folded = isinstance(block.norm1, nn.Identity)
    if not folded and not torch.is_grad_enabled() and x.numel() < 512 * x.shape[1]:
        return False  # its weights are packed at each call, which for few pixels takes longer than it saves
    attn, mlp = block.attn, block.mlp
    lka = attn.spatial_gating_unit
    return (
        all(type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) for conv in products(block))
        and all(hasattr(c, "way") and c.way(x) == "kernel" for c in (lka.conv0, lka.conv_spatial, mlp.dwconv.dwconv))
        and all(type(act) is nn.GELU and act.approximate == "none" for act in (attn.activation, mlp.act))
        and lka.fusion == "mul"
        and isinstance(lka.gate, nn.Identity)
        and not (mlp.drop.p and mlp.training)
        and x.numel() > x.shape[1]  # of a single pixel there is no variance, as BatchNorm itself says
        and all(is_local(norm) for norm in (block.norm1, block.norm2))
        and not any(is_watched(module) for child in block.children() for module in child.modules())
    )


def is_local(norm: nn.Module) -> bool:
    """Whether a norm is none, or BatchNorm with statistics of this process; SyncBN in training asks the others."""
    if isinstance(norm, nn.Identity):
        return True
    kinds = ("BatchNorm2d", "_BatchNormXd")  # the second is what mmengine makes of SyncBN outside of distributed runs
    known = isinstance(norm, _BatchNorm) and (not norm.training or type(norm).__name__ in kinds)
    usual = known and norm.affine and norm.track_running_stats and norm.momentum is not None
    return usual and norm.weight.dtype == torch.float32


def is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
