"""Decide which implementation runs: the CPU kernels, or PyTorch's own operators.

Models ask these functions and contain no such decision themselves. Everything is decided per call, because it depends
on the input's device and type, on autocast, and on whether the model is being traced, compiled or exported.
"""

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import _get_current_dispatch_mode

from van_mm.ops import library

# Below this number of pixels, packing the weights at each call takes longer than the kernels save.
MIN_PIXELS = 512


def records_operators(x: Tensor | Proxy) -> bool:
    """Whether the operators applied to ``x`` are recorded, and not only computed.

    A record has to consist of PyTorch's own operators, whose sizes follow the input, because it is loaded without
    van_mm, or because its reader counts known operators only. Records are made by ``torch.jit.trace`` (and the counters
    of mmengine and fvcore, which use it), ``torch.fx``, ``torch.export``, ONNX export, and dispatch modes such as
    PyTorch's ``FlopCounterMode``. ``torch.compile`` is no record, because it runs in this process.
    """
    if isinstance(x, Proxy):
        return True
    if torch.compiler.is_compiling():
        return getattr(torch.compiler, "is_exporting", lambda: False)()  # PyTorch 2.7 and newer
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or _get_current_dispatch_mode() is not None


def get_compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type that the kernels compute in: autocast's if it is enabled, otherwise that of ``x``."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def to_fast_memory_format(x: Tensor) -> Tensor:
    """Return ``x`` (N, C, H, W) in channels-last memory on the CPU, where depth-wise convolutions then run many times
    faster, and unchanged on other devices."""
    if isinstance(x, Proxy) or x.device.type != "cpu":
        return x
    return x.contiguous(memory_format=torch.channels_last)


def choose_depthwise_algorithm(conv: nn.Conv2d, x: Tensor) -> str:
    """Choose how a depth-wise convolution is computed.

    Args:
        conv (nn.Conv2d): Depth-wise, with a square kernel.
        x (Tensor): Its input (N, C, H, W).

    Returns:
        str: ``'kernel'``, ``'phases'`` or ``'torch'``, see :class:`~van_mm.models.layers.DepthwiseConv2d`. Other
        devices than the CPU, even kernel sizes and inputs whose operators are recorded always get ``'torch'``.
    """
    if records_operators(x) or x.device.type != "cpu" or conv.kernel_size[0] % 2 == 0:
        return "torch"
    if library.is_loaded and conv.in_channels % 16 == 0 and get_compute_dtype(x) in (torch.float32, torch.bfloat16):
        return "kernel"
    return "phases" if conv.dilation[0] > 1 else "torch"


def get_pointwise_convs(block: nn.Module) -> tuple[nn.Module, ...]:
    """Return the 1x1 convolutions of a VAN block: proj_1, conv1, proj_2, fc1, fc2."""
    attn, mlp = block.attn, block.mlp
    return attn.proj_1, attn.spatial_gating_unit.conv1, attn.proj_2, mlp.fc1, mlp.fc2


def can_use_kernels(block: nn.Module, x: Tensor) -> bool:
    """Whether the fused operators compute the same as ``block`` on ``x``.

    They do for VAN's standard block on the CPU, unless it is compiled, its operators are recorded, or a hook is
    registered on one of its inner modules.

    Args:
        block (nn.Module): A :class:`~van_mm.models.backbones.van.Block` or
            :class:`~van_mm.models.utils.fold.FoldedBlock`.
        x (Tensor): Its input (N, C, H, W).
    """
    if not library.is_loaded or torch.compiler.is_compiling() or records_operators(x) or x.device.type != "cpu":
        return False
    num_pixels = x.numel() // x.shape[1]
    is_folded = isinstance(block.norm1, nn.Identity)
    if not is_folded and not torch.is_grad_enabled() and num_pixels < MIN_PIXELS:
        return False
    attn, mlp = block.attn, block.mlp
    lka = attn.spatial_gating_unit
    if not getattr(lka, "is_standard", False):  # a relative of LKA, or an ablation
        return False
    depthwise_convs = (lka.conv0, lka.conv_spatial, mlp.dwconv.dwconv)
    return (
        all(type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) for conv in get_pointwise_convs(block))
        and all(hasattr(conv, "choose_algorithm") and conv.choose_algorithm(x) == "kernel" for conv in depthwise_convs)
        and all(type(act) is nn.GELU and act.approximate == "none" for act in (attn.activation, mlp.act))
        and not (mlp.drop.p and mlp.training)
        and num_pixels > 1  # BatchNorm itself rejects a single pixel, which has no variance
        and all(has_local_statistics(norm) for norm in (block.norm1, block.norm2))
        and not any(has_hooks(module) for child in block.children() for module in child.modules())
    )


def has_local_statistics(norm: nn.Module) -> bool:
    """Whether ``norm`` is an identity, or a float32 BatchNorm whose statistics come from this process alone.

    SyncBN in training mode does not qualify, because it averages over all processes.
    """
    if isinstance(norm, nn.Identity):
        return True
    local_types = ("BatchNorm2d", "_BatchNormXd")  # mmengine turns SyncBN into the second outside distributed runs
    is_batch_norm = isinstance(norm, _BatchNorm) and (not norm.training or type(norm).__name__ in local_types)
    has_buffers = is_batch_norm and norm.affine and norm.track_running_stats and norm.momentum is not None
    return has_buffers and norm.weight.dtype == torch.float32


def has_hooks(module: nn.Module) -> bool:
    """Whether a forward or backward hook is registered on the module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
