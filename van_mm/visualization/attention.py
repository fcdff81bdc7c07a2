"""Compute the attention maps of LKA (figure 9 of the paper)."""

import numpy as np
import torch
from torch import Tensor

from van_mm.models import VAN


@torch.no_grad()
def compute_attention_maps(backbone: VAN, images: Tensor) -> dict[tuple[int, int], np.ndarray]:
    """Return the attention maps of every block.

    LKA computes ``attention * features``, where the attention has a value for each position and channel (equation 2).
    A map is the mean of the attention's absolute value over the channels.

    Args:
        backbone (VAN): In eval mode and not folded.
        images (Tensor): Images (N, 3, H, W), normalized.

    Returns:
        dict[tuple[int, int], np.ndarray]: Maps (N, H / s, W / s, float32) by (stage, block), both counted from 1. The
        strides s of the stages are 4, 8, 16 and 32.

    Example:
        >>> maps = compute_attention_maps(VAN("b0").eval(), torch.rand(1, 3, 224, 224))
        >>> maps[1, 3].shape, maps[4, 2].shape
        ((1, 56, 56), (1, 7, 7))
    """
    maps, handles = {}, []
    for stage in range(1, backbone.num_stages + 1):
        for number, block in enumerate(getattr(backbone, f"block{stage}"), 1):

            def record(module, inputs, key=(stage, number)):
                maps[key] = module.attention(*inputs).abs().mean(1).float().cpu().numpy()

            handles.append(block.attn.spatial_gating_unit.register_forward_pre_hook(record))
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return maps
