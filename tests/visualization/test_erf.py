"""Effective receptive fields are exact for plain convolutions, and that of VAN is the largest, as in figure 8."""

import numpy as np
import pytest
import torch
from torch import nn

from van_mm.analysis.backbones import BACKBONE_NAMES, build_backbone
from van_mm.visualization.erf import compute_area_shares, compute_receptive_field, to_log_scale


def test_stacked_convolutions():
    """Three 3x3 convolutions of ones see 7x7 pixels, each weighted by the number of paths to it."""
    stack = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(3)])
    for layer in stack:
        nn.init.ones_(layer.weight)
    field = compute_receptive_field(stack, [torch.rand(4, 1, 21, 21)])
    paths = np.convolve(np.convolve([1, 1, 1], [1, 1, 1]), [1, 1, 1])
    expected = np.zeros((21, 21))
    expected[7:14, 7:14] = np.outer(paths, paths)
    assert np.allclose(field, expected)
    assert compute_area_shares(field, [1.0]) == {1.0: 49 / 441}
    inner = {reach: paths[3 - reach : 4 + reach].sum() ** 2 / 27**2 for reach in (0, 1, 2)}
    for reach, share in inner.items():
        assert compute_area_shares(field, [share - 1e-9])[share - 1e-9] == (2 * reach + 1) ** 2 / 441


def test_strides_and_dilation():
    """A 3x3 convolution with stride 2 before a 3x3 one with dilation 3 sees 3 + 2 * 6 = 15 pixels, with gaps."""
    stack = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), nn.Conv2d(3, 2, 3, dilation=3, padding=3, bias=False)
    )
    for layer in stack:
        nn.init.uniform_(layer.weight, 0.5, 1)
    field = compute_receptive_field(stack, [torch.rand(1, 2, 41, 41)])
    seen = np.flatnonzero(field.sum(0))
    assert seen.min() == 20 - 7 and seen.max() == 20 + 7 and len(seen) == 9


def test_images_are_averaged():
    """The field is the mean over the images; an image whose center feature is negative counts as zero."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.constant_(network[0].weight, 2.0)
    positive, negative = torch.ones(1, 1, 4, 4), -torch.ones(1, 1, 4, 4)
    assert compute_receptive_field(network, [positive])[2, 2] == 2
    assert compute_receptive_field(network, [torch.cat([positive, negative])])[2, 2] == 1  # 0 for the negative image


def test_log_scale():
    scaled = to_log_scale(np.array([[0.0, 1.0], [10.0, 100.0]]))
    assert scaled[0, 0] == 0 and scaled[1, 1] == 1 and 0 < scaled[0, 1] < scaled[1, 0] < 1


def test_van_has_the_largest_field():
    images = [torch.randn(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))]
    areas = {}
    for name in ("b2", "resnet-50", "convnext-t"):
        backbone = build_backbone(name)
        backbone.eval()
        areas[name] = compute_area_shares(compute_receptive_field(backbone, images))[0.99]
    assert areas["b2"] > 5 * areas["resnet-50"] and areas["b2"] > 5 * areas["convnext-t"]


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_backbones_by_name(name):
    if name in ("b5", "b6"):
        with torch.device("meta"):
            maps = build_backbone(name)(torch.empty(1, 3, 64, 64))
    else:
        backbone = build_backbone(name)
        backbone.eval()
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, 224, 224) if "swin" in name else torch.randn(1, 3, 64, 64))
    assert len(maps) == 4 and all(m.dim() == 4 for m in maps)
