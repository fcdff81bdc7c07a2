"""Folding: convolutions absorb the BatchNorm and LayerScale of a trained model, for faster inference."""

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from van_mm.models.backbones.fused_block import (
    compute_affine,
    forward_without_grad,
    get_layer_scales,
    get_norm_statistics,
    pack_weight,
)
from van_mm.models.backbones.van import VAN, Block
from van_mm.ops.dispatch import can_use_kernels, get_compute_dtype, get_pointwise_convs

DEVICES_WITHOUT_DOUBLE = ("mps",)  # Apple's GPUs


class FoldedBlock(nn.Module):
    """A :class:`~van_mm.models.backbones.van.Block` whose convolutions have absorbed its norms and LayerScale.

    BatchNorm in eval mode computes ``s x + t`` with one s and one t a channel, which the next 1x1 convolution absorbs.
    The shortcut inside the attention branch starts after the norm, so it adds ``s x + t``. With LayerScale g, the
    branch and its two shortcuts add up to ``(1 + g s) x + g (proj_2(...) + t)``, one multiply-add for each element.

    Takes and returns maps (N, C, H, W).

    Args:
        block (Block): A block in eval mode, with BatchNorm. Its modules are reused and changed in place, not copied.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.attn, self.mlp = block.attn, block.mlp
        self.norm1 = self.norm2 = nn.Identity()
        self.packed = None  # (type, packed weights and biases) for the kernels, made at the first forward pass
        gamma_1, gamma_2 = get_layer_scales(block)
        slope, shift = get_affine_of_norm(block.norm1)
        absorb_input(self.attn.proj_1, slope, shift)
        absorb_output(self.attn.proj_2, gamma_1, shift)
        absorb_input(self.mlp.fc1, *get_affine_of_norm(block.norm2))
        absorb_output(self.mlp.fc2, gamma_2)
        self.register_buffer("shortcut", (1 + gamma_1 * slope).detach().float())

    def forward(self, x: Tensor) -> Tensor:
        attn, mlp = self.attn, self.mlp
        if not torch.is_grad_enabled() and can_use_kernels(self, x):
            x = x.to(get_compute_dtype(x))
            if self.packed is None or self.packed[0] != x.dtype:
                self.packed = x.dtype, [(pack_weight(x, conv.weight), conv.bias) for conv in get_pointwise_convs(self)]
            return forward_without_grad(self, x, self.packed[1], self.shortcut)
        branch = attn.proj_2(attn.spatial_gating_unit(attn.activation(attn.proj_1(x))))
        x = torch.addcmul(branch, x, self.shortcut.view(1, -1, 1, 1))
        return x + mlp(x)

    def _apply(self, *args, **kwargs) -> "FoldedBlock":
        self.packed = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self.packed = None
        super()._load_from_state_dict(*args, **kwargs)


def to_precise(value: Tensor) -> Tensor:
    """Return a tensor in double precision, or in single precision on devices without it."""
    return value.float() if value.device.type in DEVICES_WITHOUT_DOUBLE else value.double()


def get_affine_of_norm(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the ``slope`` and ``shift`` (C,) of a BatchNorm in eval mode, in double precision if possible."""
    return compute_affine(norm, *map(to_precise, get_norm_statistics(norm)))


@torch.no_grad()
def absorb_input(conv: nn.Conv2d, slope: Tensor, shift: Tensor) -> None:
    """Change a 1x1 convolution in place so that its input is ``x`` instead of ``slope x + shift``."""
    weight = to_precise(conv.weight)
    conv.bias.copy_(conv.bias + (weight * shift.view(1, -1, 1, 1)).sum((1, 2, 3)))
    conv.weight.copy_(weight * slope.view(1, -1, 1, 1))


@torch.no_grad()
def absorb_output(conv: nn.Conv2d, gamma: Tensor, shift: Tensor | float = 0.0) -> None:
    """Change a convolution in place so that its output is ``gamma (y + shift)`` instead of ``y``."""
    conv.bias.copy_(to_precise(gamma) * (conv.bias + shift))
    conv.weight.copy_(to_precise(gamma).view(-1, 1, 1, 1) * conv.weight)


def fold(model: nn.Module) -> nn.Module:
    """Fold BatchNorm and LayerScale of a trained model into its convolutions, in place.

    The outputs stay equal up to rounding. In every :class:`~van_mm.VAN`, convolutions absorb all BatchNorm and
    LayerScale. In the rest of the model, mmcv's ``fuse_conv_bn`` merges each BatchNorm with the convolution before it.
    The folded model can't load the checkpoints of the original model.

    Args:
        model (nn.Module): A VAN, or a model of any codebase, in eval mode.

    Returns:
        nn.Module: The same model, folded.

    Raises:
        ValueError: If a BatchNorm is in training mode, because its statistics then depend on the batch.

    Example:
        >>> model = fold(VAN(arch="b0").eval())
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 64))]
        [(1, 32, 16, 16), (1, 64, 8, 8), (1, 160, 4, 4), (1, 256, 2, 2)]
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        raise ValueError("a model in training mode can't be folded. Call model.eval() first.")
    for van in [module for module in model.modules() if isinstance(module, VAN)]:
        for patch_embed, blocks, _ in van.get_stages():
            fuse_conv_bn(patch_embed)
            for i, block in enumerate(blocks):
                if isinstance(block, Block) and isinstance(block.norm1, _BatchNorm):
                    blocks[i] = FoldedBlock(block)
    return fuse_conv_bn(model)
