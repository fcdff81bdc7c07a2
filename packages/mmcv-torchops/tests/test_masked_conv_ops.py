"""Masked convolution, against a convolution times the mask in double precision."""

import mmcv_torchops
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import MaskedConv2d, masked_conv2d
from torch import Tensor
from torchops_testing import DEVICES, assert_same, run_torchops

# mmcv calls an overload of addmm that PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:This overload of addmm:UserWarning")


def make_inputs(kernel: tuple[int, int] = (3, 3), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return features, a mask, a weight and a bias."""
    generator = torch.Generator().manual_seed(0)
    features, mask, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(1, 4, 7, 9), (1, 7, 9), (5, 4, *kernel), (5,)]
    )
    return [tensor.to(dtype) for tensor in (features, mask, weight, bias)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_a_convolution_times_the_mask(dtype, kernel, device):
    inputs = make_inputs(kernel, dtype)
    padding = (kernel[0] // 2, kernel[1] // 2)
    features, mask, weight, bias = (tensor.double() for tensor in inputs)
    expected = F.conv2d(features, weight, bias, padding=padding) * (mask > 0)
    output = run_torchops(masked_conv2d, *(tensor.to(device) for tensor in inputs), padding)
    assert output.dtype == dtype
    assert_same(output.double().cpu(), expected)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 0), (2, 3)])
def test_patches_equal_those_of_unfold(padding, kernel):
    features = make_inputs()[0]
    size = [full + 2 * pad - extent + 1 for full, pad, extent in zip((7, 9), padding, kernel, strict=True)]
    row, column = (torch.arange(min(full, out)) for full, out in zip((7, 9), size, strict=True))
    row, column = (index.flatten() for index in torch.meshgrid(row, column, indexing="ij"))
    columns = features.new_full((4 * kernel[0] * kernel[1], len(row)), 7)
    mmcv_torchops.masked_im2col_forward(features, row, column, columns, *kernel, *padding)
    patches = F.unfold(features, kernel, padding=padding)[0].view(-1, *size)
    assert torch.equal(columns, patches[:, row, column])


def test_columns_replace_the_masked_pixels_alone():
    image = torch.zeros(1, 2, 3, 4)
    columns = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    row, column = torch.tensor([0, 2]), torch.tensor([3, 1])
    mmcv_torchops.masked_col2im_forward(columns, row, column, image, height=3, width=4, channels=2)
    assert image[0, :, 0, 3].tolist() == [1, 3] and image[0, :, 2, 1].tolist() == [2, 4]
    assert image.count_nonzero() == 4


def test_an_empty_mask_gives_zeros():
    features, mask, weight, bias = make_inputs()
    assert not run_torchops(masked_conv2d, features, torch.zeros_like(mask), weight, bias, 1).any()
    columns = features.new_empty(36, 0)
    nothing = torch.empty(0, dtype=torch.long)
    mmcv_torchops.masked_im2col_forward(features, nothing, nothing, columns, 3, 3, 1, 1)
    mmcv_torchops.masked_col2im_forward(features.new_empty(4, 0), nothing, nothing, features, 7, 9, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    features, mask, weight, bias = inputs = make_inputs(dtype=dtype)
    output = run_torchops(masked_conv2d, *inputs, 1)
    assert output.dtype == dtype
    expected = F.conv2d(features.float(), weight.float(), bias.float(), padding=1) * (mask > 0)
    assert_same(output.float(), expected, atol=0.1, rtol=0.02)


def test_autocast():
    features, mask, weight, bias = inputs = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = run_torchops(masked_conv2d, *inputs, 1)
    assert output.dtype == torch.float32
    assert_same(output, F.conv2d(features, weight, bias, padding=1) * (mask > 0), atol=0.1, rtol=0.02)


def test_strided_features():
    features, *others = make_inputs()
    expected = run_torchops(masked_conv2d, features, *others, 1)
    assert_same(run_torchops(masked_conv2d, features.to(memory_format=torch.channels_last), *others, 1), expected)


def test_compile():
    inputs = make_inputs()
    expected = run_torchops(masked_conv2d, *inputs, 1)
    torch.compiler.reset()
    compiled = torch.compile(lambda *tensors: masked_conv2d(*tensors, 1), backend="aot_eager")
    assert_same(run_torchops(compiled, *inputs), expected)


def test_the_layer():
    features, mask, _, _ = make_inputs(dtype=torch.float32)
    layer = MaskedConv2d(4, 5, 3, padding=1)
    assert_same(run_torchops(layer, features, mask), layer(features) * (mask > 0))
