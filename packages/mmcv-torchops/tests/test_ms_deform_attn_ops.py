"""Multi-scale deformable attention, against mmcv's own PyTorch function in double precision, and its derivatives."""

import math

import mmcv_torchops
import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from mmcv_torchops import computing
from torch import Tensor
from torchops_testing import DEVICES, assert_same, compute_with_gradients, needs_cuda, run_torchops

SHAPES = torch.tensor([[5, 7], [3, 4], [1, 2]])
STARTS = torch.tensor([0, 35, 47])


def make_inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return a value, locations in and around the maps, and weights."""
    generator = torch.Generator().manual_seed(0)
    value, locations, weights = (
        torch.rand(shape, generator=generator, dtype=torch.float64)
        for shape in [(4, 49, 2, 3), (4, 6, 2, 3, 4, 2), (4, 6, 2, 3, 4)]
    )
    return [tensor.to(dtype) for tensor in (value - 0.5, 1.6 * locations - 0.3, weights)]


def attend(value: Tensor, locations: Tensor, weights: Tensor, im2col_step: int = 2) -> Tensor:
    shapes, starts = SHAPES.to(value.device), STARTS.to(value.device)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, im2col_step)


def attend_reference(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_mmcv_in_pytorch(dtype, device):
    inputs = make_inputs(dtype)
    expected = compute_with_gradients(attend_reference, *(x.double() for x in inputs))
    output, gradients = run_torchops(compute_with_gradients, attend, *(x.to(device) for x in inputs))
    assert output.dtype == dtype
    assert_same((output.double().cpu(), [gradient.double().cpu() for gradient in gradients]), expected)


def test_gradients_are_derivatives():
    inputs = [tensor[:1].requires_grad_() for tensor in make_inputs()]
    assert run_torchops(torch.autograd.gradcheck, attend, inputs, fast_mode=True)


def test_levels_begin_at_their_index():
    value, locations, weights = make_inputs()
    gap = torch.full((4, 1, 2, 3), math.nan, dtype=torch.float64)
    shifted = torch.cat([gap, value[:, :35], gap, value[:, 35:]], dim=1)
    output = mmcv_torchops.ms_deform_attn_forward(
        shifted, SHAPES, torch.tensor([1, 37, 49]), locations, weights, im2col_step=64
    )
    assert_same(output, attend_reference(value, locations, weights))


@pytest.mark.parametrize("position", [math.nan, math.inf, -math.inf, 1e30])
def test_samples_without_a_position_are_zero(position):
    value, locations, weights = make_inputs(torch.float32)
    broken, far = locations.clone(), locations.clone()
    broken[:, 1, :, :, 2, 1], far[:, 1, :, :, 2, 1] = position, 1000
    actual, expected = (run_torchops(compute_with_gradients, attend, value, x, weights) for x in (broken, far))
    assert expected[0].isfinite().all()
    assert_same(actual, expected)


def test_the_step_changes_nothing(monkeypatch):
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, attend, *inputs)
    for chunk_size in (1, 2**30):
        monkeypatch.setattr(computing, "CPU_CHUNK", chunk_size)
        for step in (1, 4, 64):
            assert_same(run_torchops(compute_with_gradients, lambda *x, step=step: attend(*x, step), *inputs), expected)


def test_the_step_must_divide_the_batch():
    with pytest.raises(RuntimeError, match="multiple of im2col_step"):
        run_torchops(attend, *make_inputs(), 3)


@pytest.mark.parametrize("images, queries", [(0, 6), (4, 0)])
def test_nothing(images, queries):
    value, locations, weights = (tensor[:images] for tensor in make_inputs())
    output, gradients = run_torchops(
        compute_with_gradients, attend, value, locations[:, :queries], weights[:, :queries]
    )
    assert output.shape == (images, queries, 6)
    assert_same(gradients[0], torch.zeros_like(value))


def test_gradients_are_written_in_place():
    value, locations, weights = make_inputs()
    output, expected = run_torchops(compute_with_gradients, attend, value, locations, weights)
    grad = torch.rand(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actual = [torch.ones_like(tensor) for tensor in (value, locations, weights)]
    mmcv_torchops.ms_deform_attn_backward(value, SHAPES, STARTS, locations, weights, grad, *actual, im2col_step=64)
    assert_same(actual, [1 + expected[0], *expected[1:]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    inputs = make_inputs(dtype)
    expected, expected_gradients = run_torchops(compute_with_gradients, attend, *(x.float() for x in inputs))
    output, gradients = run_torchops(compute_with_gradients, attend, *inputs)
    assert output.dtype == gradients[0].dtype == dtype
    assert_same(output.float(), expected, atol=0.02, rtol=0.02)
    assert_same([gradient.float() for gradient in gradients], expected_gradients, atol=0.1, rtol=0.05)


def test_autocast():
    value, locations, weights = make_inputs(torch.float32)
    expected = run_torchops(compute_with_gradients, attend, value, locations, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(compute_with_gradients, attend, value, locations, weights), expected)
        output, gradients = run_torchops(compute_with_gradients, attend, value.bfloat16(), locations, weights)
    assert output.dtype == gradients[0].dtype == torch.bfloat16
    assert gradients[1].dtype == gradients[2].dtype == torch.float32


def test_compile():
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, attend, *inputs)
    torch.compiler.reset()
    compiled = torch.compile(attend, backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, *inputs), expected)


def test_strided_tensors():
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, attend, *inputs)
    strided = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in inputs]
    assert_same(run_torchops(compute_with_gradients, attend, *strided), expected)


def test_deterministic_algorithms():
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, attend, *inputs)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(run_torchops(compute_with_gradients, attend, *inputs), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@needs_cuda
def test_the_layer_on_cuda_equals_the_layer_on_the_cpu():
    torch.manual_seed(0)
    layer = MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=3, batch_first=True).eval()
    query, value, points = torch.randn(2, 6, 8), torch.randn(2, 49, 8), torch.rand(2, 6, 3, 2)
    expected = layer(query, value=value, reference_points=points, spatial_shapes=SHAPES, level_start_index=STARTS)
    output = run_torchops(
        layer.cuda(),
        query.cuda(),
        value=value.cuda(),
        reference_points=points.cuda(),
        spatial_shapes=SHAPES.cuda(),
        level_start_index=STARTS.cuda(),
    )
    assert_same(output.cpu(), expected)
