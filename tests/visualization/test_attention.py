"""Attention maps show the factor that LKA multiplies its input by."""

import numpy as np
import torch

from van_mm import VAN
from van_mm.visualization.attention import compute_attention_maps


@torch.no_grad()
def test_maps():
    torch.manual_seed(0)
    backbone = VAN("b0")
    backbone.init_weights()
    backbone.eval()
    images = torch.randn(2, 3, 64, 96)
    maps = compute_attention_maps(backbone, images)
    assert list(maps) == [(s, b) for s, depth in enumerate((3, 3, 5, 2), 1) for b in range(1, depth + 1)]
    assert [maps[stage, 1].shape for stage in (1, 2, 3, 4)] == [(2, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    block, x = backbone.block1[0], backbone.patch_embed1(images)
    unit = block.attn.spatial_gating_unit
    gated = block.attn.activation(block.attn.proj_1(block.norm1(x)))
    ratio = (unit(gated) / gated).abs().mean(1).numpy()  # the factor of each pixel
    assert np.allclose(maps[1, 1], ratio, rtol=1e-3, atol=1e-5)
    outputs = backbone(images)
    assert torch.equal(outputs[-1], backbone(images)[-1])
    assert not unit._forward_pre_hooks
