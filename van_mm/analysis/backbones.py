"""Backbones by name: VAN's sizes, and the networks that the paper sets beside them."""

import torch
from torch import nn

SIZES = tuple(f"b{i}" for i in range(7))
OTHERS = {
    "swin-t": dict(type="mmpretrain.SwinTransformer", arch="tiny"),
    "swin-s": dict(type="mmpretrain.SwinTransformer", arch="small"),
    "swin-b": dict(type="mmpretrain.SwinTransformer", arch="base"),
    "convnext-t": dict(type="mmpretrain.ConvNeXt", arch="tiny", gap_before_final_norm=False),
    "convnext-s": dict(type="mmpretrain.ConvNeXt", arch="small", gap_before_final_norm=False),
    "convnext-b": dict(type="mmpretrain.ConvNeXt", arch="base", gap_before_final_norm=False),
    "resnet-50": dict(type="mmpretrain.ResNet", depth=50),
    "resnet-101": dict(type="mmpretrain.ResNet", depth=101),
}
NAMES = (*SIZES, *OTHERS)


def build_backbone(name: str) -> nn.Module:
    """One of ``NAMES`` with random weights (seed 0), that returns the maps of its four stages.

    ResNet is left as PyTorch initialises it: mmpretrain's own starts each block as the identity, which is no network
    of that depth until it is trained.
    """
    from mmengine.registry import MODELS

    from van_mm.models import VAN

    torch.manual_seed(0)
    if name in SIZES:
        backbone = VAN(name)
        backbone.init_weights()
        return backbone
    return MODELS.build(OTHERS[name] | dict(out_indices=(0, 1, 2, 3)))
