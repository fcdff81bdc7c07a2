"""CARAFE, against loops in double precision, and its derivatives."""

import mmcv_torchops
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import carafe, carafe_naive
from mmcv.ops.carafe import CARAFEPack
from mmcv_torchops import computing
from torch import Tensor
from torchops_testing import DEVICES, assert_same, compute_with_gradients, run_torchops

# The size of the kernel, the number of groups, and the scale.
VARIANTS = [(1, 1, 1), (3, 1, 2), (3, 2, 2), (5, 1, 3), (5, 4, 1)]
variants = pytest.mark.parametrize("variant", VARIANTS)


def make_inputs(variant: tuple[int, int, int] = (3, 2, 2), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return features and masks."""
    kernel_size, groups, scale = variant
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 4, generator=generator, dtype=torch.float64)
    masks = torch.randn(2, groups * kernel_size**2, 3 * scale, 4 * scale, generator=generator, dtype=torch.float64)
    return [features.to(dtype), masks.to(dtype)]


def make_call(variant: tuple[int, int, int] = (3, 2, 2)):
    return lambda features, masks: carafe(features, masks, *variant)


def reassemble(features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    """Return the upsampled features, pixel by pixel."""
    margin = kernel_size // 2
    padded = F.pad(features, (margin, margin, margin, margin))
    rows = []
    for row in range(masks.shape[2]):
        for column in range(masks.shape[3]):
            top, left = row // scale, column // scale
            patch = padded[:, :, top : top + kernel_size, left : left + kernel_size].flatten(2)
            kernel = masks[:, :, row, column].unflatten(1, (groups, -1))
            rows.append((patch.unflatten(1, (groups, -1)) * kernel[:, :, None]).sum(3).flatten(1))
    return torch.stack(rows, dim=2).unflatten(2, masks.shape[2:])


@pytest.mark.parametrize("device", DEVICES)
@variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_reference(dtype, variant, device):
    inputs = make_inputs(variant, dtype)
    expected = compute_with_gradients(lambda *x: reassemble(*x, *variant), *(x.double() for x in inputs))
    on_device = [x.to(device) for x in inputs]
    output, gradients = run_torchops(compute_with_gradients, make_call(variant), *on_device)
    assert output.dtype == dtype
    assert_same((output.double().cpu(), [gradient.double().cpu() for gradient in gradients]), expected)
    assert_same(run_torchops(carafe_naive, *on_device, *variant), output)


def test_gradients_are_derivatives():
    inputs = [x.requires_grad_() for x in make_inputs()]
    assert run_torchops(torch.autograd.gradcheck, make_call(), inputs, fast_mode=True)


def run_backward(operator: str, *scratch: Tensor) -> list[Tensor]:
    """Return the gradients that an operator leaves in tensors of ones."""
    features, masks = make_inputs()
    grad = torch.rand(2, 4, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = [torch.ones_like(features), torch.ones_like(masks)]
    getattr(mmcv_torchops, operator)(
        grad, features, masks, *scratch, *gradients, kernel_size=3, group_size=2, scale_factor=2
    )
    return gradients


def test_naive_gradients_accumulate_and_others_are_written():
    _, expected = run_torchops(compute_with_gradients, make_call(), *make_inputs())
    assert_same(run_backward("carafe_naive_backward"), [1 + gradient for gradient in expected])
    assert_same(run_backward("carafe_backward", *torch.empty(4, 1)), expected)


def test_the_forward_keeps_the_features_for_the_backward():
    features, masks = make_inputs()
    kept, output = torch.zeros_like(features), torch.zeros(2, 4, 6, 8)
    mmcv_torchops.carafe_forward(features, masks, kept, output, masks, output, 3, 2, 2)
    assert torch.equal(kept, features)


def test_no_images():
    output, gradients = run_torchops(compute_with_gradients, make_call(), *(x[:0] for x in make_inputs()))
    assert output.shape == (0, 4, 6, 8)
    assert gradients[0].shape == (0, 4, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    inputs = make_inputs(dtype=dtype)
    expected, expected_gradients = run_torchops(compute_with_gradients, make_call(), *(x.float() for x in inputs))
    output, gradients = run_torchops(compute_with_gradients, make_call(), *inputs)
    assert output.dtype == gradients[0].dtype == gradients[1].dtype == dtype
    assert_same(output, expected.to(dtype))
    assert_same([gradient.float() for gradient in gradients], expected_gradients, atol=0.05, rtol=0.05)


def test_autocast():
    features, masks = make_inputs(dtype=torch.float32)
    expected = run_torchops(compute_with_gradients, make_call(), features, masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(compute_with_gradients, make_call(), features, masks), expected)
        for types in [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]:
            inputs = features.to(types[0]), masks.to(types[1])
            output, gradients = run_torchops(compute_with_gradients, make_call(), *inputs)
            assert (output.dtype, *(gradient.dtype for gradient in gradients)) == (types[0], *types)


def test_compile():
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, make_call(), *inputs)
    torch.compiler.reset()
    compiled = torch.compile(make_call(), backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, *inputs), expected)


def test_memory_formats():
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, make_call(), *inputs)
    strided = [x.to(memory_format=torch.channels_last) for x in inputs]
    assert_same(run_torchops(compute_with_gradients, make_call(), *strided), expected)


def test_the_chunk_size_changes_nothing(monkeypatch):
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, make_call(), *inputs)
    for chunk_size in (1, 300):
        monkeypatch.setattr(computing, "CPU_CHUNK", chunk_size)
        assert_same(run_torchops(compute_with_gradients, make_call(), *inputs), expected)


def test_the_layer():
    torch.manual_seed(0)
    layer = CARAFEPack(4, 2, compressed_channels=3)
    x = torch.randn(2, 4, 5, 6)
    masks = layer.kernel_normalizer(layer.content_encoder(layer.channel_compressor(x)))
    assert_same(run_torchops(layer, x), reassemble(x, masks, 5, 1, 2))
