"""A masked convolution is the convolution at the positions of the mask, and 0 elsewhere."""

import mmcv_torchops
import pytest
import torch
from mmcv.ops import MaskedConv2d
from torchops_testing import DEVICES, assert_same, use_operators


@pytest.mark.parametrize("kernel_size, padding", [(1, 0), (3, 1), ((3, 5), (1, 2))])
@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("device", DEVICES)
def test_masked_conv(kernel_size, padding, share, device):
    generator = torch.Generator().manual_seed(0)
    layer = MaskedConv2d(4, 6, kernel_size, padding=padding).double().to(device)
    x = torch.randn(1, 4, 7, 9, generator=generator, dtype=torch.float64).to(device)
    mask = (torch.rand(1, 7, 9, generator=generator) < share).to(device)
    with use_operators(mmcv_torchops), torch.no_grad():
        assert_same(layer(x, mask), torch.nn.Conv2d.forward(layer, x) * mask, 1e-12)


def test_without_a_mask():
    layer, x = MaskedConv2d(4, 6, 3), torch.rand(2, 4, 5, 5)
    with use_operators(mmcv_torchops):
        assert_same(layer(x), torch.nn.Conv2d.forward(layer, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types(dtype):
    layer, x = MaskedConv2d(4, 6, 3, padding=1).to(dtype), torch.rand(1, 4, 5, 5).to(dtype)
    mask = torch.ones(1, 5, 5)
    with use_operators(mmcv_torchops), torch.no_grad():
        out = layer(x, mask)
    assert out.dtype == dtype
    assert (out - torch.nn.Conv2d.forward(layer, x)).abs().max() < 0.05
