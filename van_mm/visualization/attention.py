"""LKA's own attention maps (figure 9)."""

import numpy as np
import torch
from torch import Tensor

from van_mm.models import VAN


@torch.no_grad()
def attention_maps(backbone: VAN, images: Tensor) -> dict[tuple[int, int], np.ndarray]:
    """The attention that multiplies the features, its absolute value averaged over channels.

    Args:
        backbone (VAN): In eval mode, not folded.
        images (Tensor): (N, 3, H, W), normalised.

    Returns:
        dict[tuple[int, int], np.ndarray]: Maps (N, H/s, W/s), by stage from 1 to 4 and block from 1.
    """
    maps, handles = {}, []
    for stage in range(1, backbone.num_stages + 1):
        for number, block in enumerate(getattr(backbone, f"block{stage}"), 1):

            def keep(module, inputs, output, place=(stage, number)):
                maps[place] = output.abs().mean(1).float().cpu().numpy()

            handles.append(block.attn.spatial_gating_unit.conv1.register_forward_hook(keep))
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return maps
