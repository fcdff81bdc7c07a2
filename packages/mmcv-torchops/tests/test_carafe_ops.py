"""CARAFE equals a loop over its definition, and its gradients are those of numerical differentiation."""

import mmcv_torchops
import pytest
import torch
from mmcv.ops import CARAFEPack
from mmcv.ops.carafe import CARAFENaiveFunction, carafe
from torchops_testing import DEVICES, assert_same, use_operators


def make_inputs(kernel_size, groups, scale, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    masks = torch.rand(2, groups * kernel_size**2, 3 * scale, 5 * scale, generator=generator, dtype=torch.float64)
    return features.to(device, dtype), masks.to(device, dtype)


def upsample_by_loops(features, masks, kernel_size, groups, scale):
    """The definition: each output position weights the neighbourhood of its source position."""
    n, channels, height, width = features.shape
    out = features.new_zeros(n, channels, height * scale, width * scale)
    for c in range(channels):
        group = c // (channels // groups)
        for y in range(height * scale):
            for x in range(width * scale):
                for tap in range(kernel_size**2):
                    yy = y // scale + tap // kernel_size - kernel_size // 2
                    xx = x // scale + tap % kernel_size - kernel_size // 2
                    if 0 <= yy < height and 0 <= xx < width:
                        out[:, c, y, x] += features[:, c, yy, xx] * masks[:, group * kernel_size**2 + tap, y, x]
    return out


@pytest.mark.parametrize("settings", [(3, 1, 2), (5, 2, 1), (5, 4, 3), (1, 2, 2)])
@pytest.mark.parametrize("function", [carafe, CARAFENaiveFunction.apply])
def test_definition(settings, function):
    inputs = make_inputs(*settings)
    with use_operators(mmcv_torchops):
        assert_same(function(*inputs, *settings), upsample_by_loops(*inputs, *settings), 1e-12)


@pytest.mark.parametrize("settings", [(3, 1, 2), (5, 4, 3)])
@pytest.mark.parametrize("device", DEVICES)
def test_gradients(settings, device):
    inputs = [x.requires_grad_() for x in make_inputs(*settings, device=device)]
    with use_operators(mmcv_torchops):
        assert torch.autograd.gradcheck(lambda f, m: carafe(f, m, *settings), inputs, fast_mode=True)
    # mmcv asserts that a GPU is used before it calls the naive backward; the operator itself needs none.
    out = upsample_by_loops(*inputs, *settings)
    grad = torch.rand_like(out)
    grads = [torch.zeros_like(x) for x in inputs]
    names = dict(zip(("kernel_size", "group_size", "scale_factor"), settings, strict=True))
    with torch.no_grad():
        mmcv_torchops.carafe_naive_backward(grad, *inputs, *grads, **names)
    assert_same(grads, list(torch.autograd.grad(out, inputs, grad)), 1e-12)


def test_memory_formats_and_types():
    features, masks = make_inputs(3, 2, 2, torch.float32)
    with use_operators(mmcv_torchops):
        expected = carafe(features, masks, 3, 2, 2)
        last = [x.contiguous(memory_format=torch.channels_last) for x in (features, masks)]
        assert_same(carafe(*last, 3, 2, 2), expected)
        out = carafe(features.bfloat16(), masks.bfloat16(), 3, 2, 2)
        assert out.dtype == torch.bfloat16 and (out.float() - expected).norm() < 0.03 * expected.norm()


def test_autocast_and_compile():
    module = CARAFEPack(8, 2, compressed_channels=4)
    x = torch.rand(1, 8, 4, 6)
    with use_operators(mmcv_torchops):
        expected = module(x)
        assert_same(torch.compile(module, backend="aot_eager")(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            out = module(x)
            out.float().sum().backward()
        assert (out.float() - expected).norm() < 0.03 * expected.norm()
