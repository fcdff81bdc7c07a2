"""Border Align, against loops in double precision. mmcv compiles it for CUDA only."""

import mmcv_torchops
import pytest
import torch
from mmcv.ops import BorderAlign, border_align
from mmcv_torchops import computing
from roi_testing import interpolate
from torchops_testing import DEVICES, assert_same, compute_with_gradients, run_torchops

POOL_SIZE = 5
CHANNELS = 3


def make_features(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4 * CHANNELS, 9, 11, generator=generator, dtype=torch.float64).to(dtype)


def make_boxes(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return boxes in images of 9 x 11 pixels: inside, across the border, around the image, outside, and empty."""
    boxes = torch.tensor(
        [
            [1.3, 2.1, 7.8, 6.2],
            [4.0, 3.0, 9.0, 8.0],
            [-2.4, -3.6, 4.2, 5.9],
            [-3.3, -2.7, 14.5, 12.1],
            [15.3, 12.2, 20.4, 18.6],
            [3.7, 4.2, 3.7, 4.2],
            [8.1, 7.2, 3.4, 2.9],
        ],
        dtype=torch.float64,
    )
    return torch.stack([boxes, boxes.flip(0) * 0.9]).to(dtype)


def align(features: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima and the numbers of their samples."""
    outputs, indices = [], []
    for feature, some_boxes in zip(features.unflatten(1, (4, CHANNELS)), boxes, strict=True):
        for x1, y1, x2, y2 in some_boxes.tolist():
            step_x, step_y = (x2 - x1) / POOL_SIZE, (y2 - y1) / POOL_SIZE
            sides = [(y1, x1, 0, step_x), (y1, x1, step_y, 0), (y2, x2, 0, -step_x), (y2, x2, -step_y, 0)]
            for side, (y, x, down, across) in zip(feature, sides, strict=True):
                samples = [interpolate(side, y + k * down, x + k * across) for k in range(POOL_SIZE + 1)]
                maximum, index = torch.stack(samples).max(0)  # the first one of equal maxima
                outputs.append(maximum)
                indices.append(index.int())
    return tuple(
        torch.stack(results).view(*boxes.shape[:2], 4, CHANNELS).permute(0, 3, 1, 2) for results in (outputs, indices)
    )


def run_forward(features: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    output = features.new_zeros(len(features), CHANNELS, boxes.shape[1], 4)
    argmax = torch.full_like(output, -1, dtype=torch.int32)
    mmcv_torchops.border_align_forward(features, boxes, output, argmax, pool_size=POOL_SIZE)
    return output, argmax


@pytest.mark.parametrize("device", DEVICES)
def test_border_align_equals_the_reference(device):
    features, boxes = make_features(), make_boxes()
    output, argmax = run_forward(features.to(device), boxes.to(device))
    expected_output, expected_argmax = align(features, boxes)
    assert_same(output.cpu(), expected_output)
    # Samples at the same position, as those of an empty box, are equal but for rounding.
    empty = (boxes[..., :2] == boxes[..., 2:]).all(-1)[:, None, :, None].expand_as(argmax)
    assert_same(argmax.cpu()[~empty], expected_argmax[~empty], 0, 0)
    expected = compute_with_gradients(lambda x: align(x, boxes)[0], features)
    module = BorderAlign(POOL_SIZE)
    output, gradients = run_torchops(compute_with_gradients, lambda x: module(x, boxes.to(device)), features.to(device))
    assert_same((output.cpu(), [gradients[0].cpu()]), expected)


def test_the_first_of_equal_maxima_counts():
    boxes = torch.tensor([[[1.0, 1.0, 6.0, 6.0]]])
    assert not run_forward(torch.ones(1, 4 * CHANNELS, 9, 11), boxes)[1].any()
    features = torch.zeros(1, 4 * CHANNELS, 9, 11)
    features[..., 3:5] = 1  # columns
    argmax = run_forward(features, boxes)[1]
    assert_same(argmax[0, 0, 0], torch.tensor([2, 0, 2, 0], dtype=torch.int32), 0, 0)


def test_gradients():
    features = make_features()[:1, :, :6, :6].requires_grad_()
    boxes = make_boxes()[:1, :4]
    assert run_torchops(torch.autograd.gradcheck, lambda x: border_align(x, boxes, POOL_SIZE), (features,))


def test_no_boxes():
    boxes = torch.zeros(2, 0, 4)
    output, gradients = run_torchops(
        compute_with_gradients, lambda x: border_align(x, boxes, POOL_SIZE), make_features(torch.float32)
    )
    assert output.shape == (2, CHANNELS, 0, 4)
    assert_same(gradients, [None])


def call_border_align(boxes: torch.Tensor):
    return lambda features: border_align(features, boxes, POOL_SIZE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    features, function = make_features(dtype), call_border_align(make_boxes(torch.float32))
    expected = run_torchops(compute_with_gradients, function, features.float())
    output, gradients = run_torchops(compute_with_gradients, function, features)
    assert output.dtype == gradients[0].dtype == dtype
    assert_same(output, expected[0].to(dtype))
    assert_same(gradients[0].float(), expected[1][0], atol=0.05, rtol=0.05)


def test_autocast():
    features, function = make_features(torch.float32), call_border_align(make_boxes(torch.float32))
    expected = run_torchops(compute_with_gradients, function, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(compute_with_gradients, function, features), expected)
        run_torchops(compute_with_gradients, function, features.bfloat16())


def test_compile():
    features, function = make_features(), call_border_align(make_boxes())
    expected = run_torchops(compute_with_gradients, function, features)
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, features), expected)


def test_memory_formats():
    features, function = make_features(), call_border_align(make_boxes())
    expected = run_torchops(compute_with_gradients, function, features)
    strided = features.to(memory_format=torch.channels_last)
    function = call_border_align(make_boxes().transpose(1, 2).contiguous().transpose(1, 2))
    assert_same(run_torchops(compute_with_gradients, function, strided), expected)
    # An input gradient in another memory format is written in place, too.
    output, argmax = run_forward(features, make_boxes())
    gradients = [torch.zeros_like(features), torch.zeros_like(strided)]
    for gradient in gradients:
        mmcv_torchops.border_align_backward(output, make_boxes(), argmax, gradient, pool_size=POOL_SIZE)
    assert gradients[0].any()
    assert_same(gradients[1], gradients[0])


def test_the_chunk_size_changes_nothing(monkeypatch):
    features, function = make_features(), call_border_align(make_boxes())
    expected = run_torchops(compute_with_gradients, function, features)
    for chunk_size in (1, 40):
        monkeypatch.setattr(computing, "CPU_CHUNK", chunk_size)
        assert_same(run_torchops(compute_with_gradients, function, features), expected)


def test_deterministic_algorithms():
    features, function = make_features(), call_border_align(make_boxes())
    expected = run_torchops(compute_with_gradients, function, features)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(run_torchops(compute_with_gradients, function, features), expected)
    finally:
        torch.use_deterministic_algorithms(False)
