"""Folding: what a trained model need not compute at inference goes into the weights of its convolutions."""

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from . import fused
from .van import VAN, Block


class FoldedBlock(nn.Module):
    """A :class:`~van_mm.models.van.Block` whose norms and LayerScale are part of its convolutions.

    BatchNorm before a 1x1 convolution is ``s x + t`` by channel, which the convolution can do itself. The shortcut
    inside of the attention branch, which starts behind the norm, becomes ``s x`` too, and with LayerScale g the branch
    and both of its shortcuts are ``(1 + g s) x + g (proj_2(...) + t)``: one multiply-add for each element.

    Args:
        block (Block): In eval mode, with BatchNorm; its convolutions are taken over, not copied.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.attn, self.mlp = block.attn, block.mlp
        self.norm1 = self.norm2 = nn.Identity()
        self.packed = None  # weights as the kernels take them
        gamma_1, gamma_2 = fused.layer_scales(block)
        slope, shift = affine(block.norm1)
        absorb_input(self.attn.proj_1, slope, shift)
        absorb_output(self.attn.proj_2, gamma_1, shift)
        absorb_input(self.mlp.fc1, *affine(block.norm2))
        absorb_output(self.mlp.fc2, gamma_2)
        self.register_buffer("shortcut", (1 + gamma_1 * slope).detach().float())

    def forward(self, x: Tensor) -> Tensor:
        attn, mlp = self.attn, self.mlp
        if not torch.is_grad_enabled() and fused.usable(self, x):
            x = x.to(fused.dtype_for(x))
            if self.packed is None or self.packed[0] != x.dtype:
                self.packed = x.dtype, [(fused.pack(x, conv.weight), conv.bias) for conv in fused.products(self)]
            return fused.infer(self, x, self.packed[1], self.shortcut)
        branch = attn.proj_2(attn.spatial_gating_unit(attn.activation(attn.proj_1(x))))
        x = torch.addcmul(branch, x, self.shortcut.view(1, -1, 1, 1))
        return x + mlp(x)

    def _apply(self, *args, **kwargs) -> "FoldedBlock":
        self.packed = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self.packed = None
        super()._load_from_state_dict(*args, **kwargs)


def affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The (C,) factors and summands that a BatchNorm in eval mode is, in double precision."""
    return fused.affine(norm, *(value.double() for value in fused.statistics(norm)))


@torch.no_grad()
def absorb_input(conv: nn.Conv2d, slope: Tensor, shift: Tensor) -> None:
    """Let a 1x1 convolution take ``x`` for ``slope x + shift``."""
    weight = conv.weight.double()
    conv.bias.copy_(conv.bias + (weight * shift.view(1, -1, 1, 1)).sum((1, 2, 3)))
    conv.weight.copy_(weight * slope.view(1, -1, 1, 1))


@torch.no_grad()
def absorb_output(conv: nn.Conv2d, gamma: Tensor, shift: Tensor | float = 0.0) -> None:
    """Let a convolution give ``gamma (y + shift)`` for ``y``."""
    conv.bias.copy_(gamma.double() * (conv.bias + shift))
    conv.weight.copy_(gamma.double().view(-1, 1, 1, 1) * conv.weight)


def fold(model: nn.Module) -> nn.Module:
    """Turn a trained model into its inference form, in place; the same numbers come out, up to rounding.

    Every :class:`~van_mm.VAN` in it loses all BatchNorm and LayerScale; a convolution of another part that is followed
    by a BatchNorm takes that in, as mmcv's ``fuse_conv_bn`` does it. Checkpoints of the model no longer load into it.

    Args:
        model (nn.Module): Any model of any codebase, or a bare VAN, in eval mode.

    Returns:
        nn.Module: The model.

    Raises:
        ValueError: If the model is in training mode, where BatchNorm is no fixed factor.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        raise ValueError("fold needs a trained model in eval mode; call model.eval() first")
    for van in [module for module in model.modules() if isinstance(module, VAN)]:
        for patch_embed, blocks, _ in van._stages():
            fuse_conv_bn(patch_embed)
            for i, block in enumerate(blocks):
                if isinstance(block, Block) and isinstance(block.norm1, _BatchNorm):
                    blocks[i] = FoldedBlock(block)
    return fuse_conv_bn(model)
