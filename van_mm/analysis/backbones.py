"""Build backbones by name: the sizes of VAN, and the networks that the paper compares them with."""

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import nn

from van_mm.models.backbones.van import ARCH_SETTINGS, VAN
from van_mm.utils.errors import UserError

VAN_ARCHS = tuple(arch for arch, settings in ARCH_SETTINGS.items() if "lka_cfg" not in settings)
COMPARED_BACKBONES = {
    "lsknet_t": dict(type="van_mm.VAN", arch="lsknet_t"),
    "lsknet_s": dict(type="van_mm.VAN", arch="lsknet_s"),
    "swin-t": dict(type="mmpretrain.SwinTransformer", arch="tiny"),
    "swin-s": dict(type="mmpretrain.SwinTransformer", arch="small"),
    "swin-b": dict(type="mmpretrain.SwinTransformer", arch="base"),
    "convnext-t": dict(type="mmpretrain.ConvNeXt", arch="tiny", gap_before_final_norm=False),
    "convnext-s": dict(type="mmpretrain.ConvNeXt", arch="small", gap_before_final_norm=False),
    "convnext-b": dict(type="mmpretrain.ConvNeXt", arch="base", gap_before_final_norm=False),
    "resnet-50": dict(type="mmpretrain.ResNet", depth=50),
    "resnet-101": dict(type="mmpretrain.ResNet", depth=101),
}
BACKBONE_NAMES = (*VAN_ARCHS, *COMPARED_BACKBONES)


def check_backbone_names(names: Sequence[str]) -> None:
    """Raise a :class:`UserError` if one of the names that ``--backbones`` lists is not in ``BACKBONE_NAMES``."""
    unknown = set(names) - set(BACKBONE_NAMES)
    if unknown:
        raise UserError(f"--backbones: no {', '.join(sorted(unknown))}. Choose from {', '.join(BACKBONE_NAMES)}.")


def build_backbone(name: str) -> nn.Module:
    """Build a backbone with random weights (seed 0) that returns the feature maps of its four stages.

    ``init_weights`` is called for VAN only. mmpretrain's would initialize every residual block of ResNet to the
    identity, so that an untrained ResNet would behave like a much shallower network.

    Args:
        name (str): A name in ``BACKBONE_NAMES``.

    Returns:
        nn.Module: In training mode. It maps images (N, 3, H, W) to four feature maps of strides 4, 8, 16 and 32.

    Example:
        >>> [tuple(out.shape) for out in build_backbone("resnet-50")(torch.rand(1, 3, 224, 224))]
        [(1, 256, 56, 56), (1, 512, 28, 28), (1, 1024, 14, 14), (1, 2048, 7, 7)]
    """
    torch.manual_seed(0)
    if name in VAN_ARCHS:
        backbone = VAN(name)
        backbone.init_weights()
        return backbone
    return MODELS.build(COMPARED_BACKBONES[name] | dict(out_indices=(0, 1, 2, 3)))
