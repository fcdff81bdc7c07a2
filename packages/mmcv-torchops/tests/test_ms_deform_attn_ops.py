"""Multi-scale deformable attention equals mmcv's PyTorch implementation, and a loop over its definition."""

import mmcv_torchops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torchops_testing import DEVICES, assert_same, compute_with_gradients, use_operators

SHAPES = [(6, 5), (3, 4), (1, 2)]


def make_inputs(batch=3, dtype=torch.float64, device="cpu"):
    """Return value, shapes, starts, locations (some outside of the maps) and weights."""
    generator = torch.Generator().manual_seed(0)
    keys = sum(h * w for h, w in SHAPES)
    value = torch.randn(batch, keys, 2, 4, generator=generator, dtype=torch.float64)
    locations = 1.4 * torch.rand(batch, 5, 2, len(SHAPES), 3, 2, generator=generator, dtype=torch.float64) - 0.2
    weights = torch.rand(batch, 5, 2, len(SHAPES), 3, generator=generator, dtype=torch.float64)
    shapes = torch.tensor(SHAPES, device=device)
    starts = torch.tensor([0, 30, 42], device=device)
    return value.to(device, dtype), shapes, starts, locations.to(device, dtype), weights.to(device, dtype)


def attend_by_loops(value, shapes, starts, locations, weights):
    """The definition: a weighted sum of bilinear samples, by head, with pixel centres at halves."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    out = value.new_zeros(batch, queries, heads, channels)
    for level, (height, width) in enumerate(SHAPES):
        start = int(starts[level])
        maps = value[:, start : start + height * width].view(batch, height, width, heads, channels)
        for index in torch.cartesian_prod(*(torch.arange(n) for n in (batch, queries, heads, points))).tolist():
            b, q, h, p = index
            x = float(locations[b, q, h, level, p, 0]) * width - 0.5
            y = float(locations[b, q, h, level, p, 1]) * height - 0.5
            for yy in (int(y // 1), int(y // 1) + 1):
                for xx in (int(x // 1), int(x // 1) + 1):
                    if 0 <= yy < height and 0 <= xx < width:
                        share = (1 - abs(y - yy)) * (1 - abs(x - xx)) * weights[b, q, h, level, p]
                        out[b, q, h] += share * maps[b, yy, xx, h]
    return out.flatten(2)


def attend(value, shapes, starts, locations, weights, im2col_step=64):
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, im2col_step)


def test_definition():
    inputs = make_inputs()
    with use_operators(mmcv_torchops):
        assert_same(attend(*inputs), attend_by_loops(*inputs), 1e-12)


@pytest.mark.parametrize("im2col_step", [1, 3, 64])
@pytest.mark.parametrize("device", DEVICES)
def test_outputs_and_gradients(im2col_step, device):
    value, shapes, starts, locations, weights = make_inputs(device=device)
    expected = compute_with_gradients(
        lambda v, p, w: multi_scale_deformable_attn_pytorch(v, shapes, p, w), value, locations, weights
    )
    with use_operators(mmcv_torchops):
        actual = compute_with_gradients(
            lambda v, p, w: attend(v, shapes, starts, p, w, im2col_step), value, locations, weights
        )
    assert_same(actual, expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_reduced_precision(dtype, device):
    value, shapes, starts, locations, weights = make_inputs(dtype=dtype, device=device)
    with use_operators(mmcv_torchops):
        out, grads = compute_with_gradients(lambda v, p, w: attend(v, shapes, starts, p, w), value, locations, weights)
    expected = multi_scale_deformable_attn_pytorch(value.double(), shapes, locations.double(), weights.double())
    assert out.dtype == dtype and all(grad.dtype == dtype for grad in grads)
    assert (out.double() - expected).norm() < 0.02 * expected.norm()


def test_autocast_and_compile():
    value, shapes, starts, locations, weights = make_inputs(dtype=torch.float32)
    with use_operators(mmcv_torchops):
        expected = attend(value, shapes, starts, locations, weights)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(attend(value, shapes, starts, locations, weights), expected)
        assert_same(torch.compile(attend, backend="aot_eager")(value, shapes, starts, locations, weights), expected)
