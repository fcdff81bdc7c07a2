"""RoI pooling and deformable RoI pooling, against loops in double precision. mmcv compiles both for CUDA only."""

import math

import mmcv_torchops
import pytest
import torch
from mmcv.ops import RoIPool, deform_roi_pool, roi_pool
from mmcv_torchops import computing
from roi_testing import divide_bin, interpolate, make_features
from torchops_testing import DEVICES, assert_same, compute_with_gradients, run_torchops

SIZE = (3, 2)
SCALE = 0.3
GAMMA = 0.1


def make_rois(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return RoIs in images of 30 x 36 pixels: inside, across the border, around the image, outside, and malformed."""
    return torch.tensor(
        [
            [0, 5.3, 4.1, 20.7, 17.9],
            [1, 30.2, 22.6, 38.1, 33.3],
            [1, -9.7, -5.2, 12.4, 7.1],
            [0, -20.4, -30.3, 70.1, 60.2],
            [1, 60.1, 60.4, 80.3, 90.2],
            [0, 12.3, 7.7, 12.3, 7.7],
            [1, 12.0, 8.0, 24.0, 18.0],
            [0, 12.3, 7.7, 10.3, 14.7],
            [1, 9.0, 9.0, 8.0, 8.0],
        ],
        dtype=dtype,
    )


def make_offset(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    shape = len(make_rois()), 2, *SIZE
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def pool_maximum(features: torch.Tensor, rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = features.shape[2:]
    output = features.new_zeros(len(rois), features.shape[1], *SIZE)
    argmax = torch.full(output.shape, -1, dtype=torch.int32)
    for index, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        y1, x1, y2, x2 = y1 * SCALE, x1 * SCALE, (y2 + 1) * SCALE, (x2 + 1) * SCALE
        if y2 <= y1 or x2 <= x1:
            continue
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                (top, bottom), (left, right) = (
                    (max(math.floor(low + bin_size * k), 0), min(math.ceil(low + bin_size * (k + 1)), size))
                    for low, bin_size, k, size in (
                        (y1, (y2 - y1) / SIZE[0], row, height),
                        (x1, (x2 - x1) / SIZE[1], column, width),
                    )
                )
                for channel in range(features.shape[1]):
                    pixels = [(y, x) for y in range(top, bottom) for x in range(left, right)]
                    if pixels:
                        plane = features[int(image), channel]
                        y, x = max(pixels, key=lambda pixel: plane[pixel].item())
                        output[index, channel, row, column] = plane[y, x]
                        argmax[index, channel, row, column] = y * width + x
    return output, argmax


def run_forward(features: torch.Tensor, rois: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima and their positions."""
    output = features.new_zeros(len(rois), features.shape[1], *SIZE)
    argmax = torch.zeros(output.shape, dtype=torch.int32, device=output.device)
    mmcv_torchops.roi_pool_forward(
        features, rois, output, argmax, pooled_height=SIZE[0], pooled_width=SIZE[1], spatial_scale=SCALE
    )
    return output, argmax


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["random", "integers", "constant"])
def test_roi_pool_equals_the_reference(kind, device):
    features, rois = make_features(), make_rois()
    if kind != "random":
        features = features.round() if kind == "integers" else torch.ones_like(features)
    output, argmax = run_forward(features.to(device), rois.to(device))
    assert_same((output.cpu(), argmax.cpu()), pool_maximum(features, rois), 0, 0)
    expected = compute_with_gradients(lambda x: pool_maximum(x, rois)[0], features)
    module = RoIPool(SIZE, SCALE)
    output, gradients = run_torchops(compute_with_gradients, lambda x: module(x, rois.to(device)), features.to(device))
    assert_same((output.cpu(), [gradients[0].cpu()]), expected)


def average_moved_bins(
    features: torch.Tensor, rois: torch.Tensor, offset: torch.Tensor | None, sampling_ratio: int
) -> torch.Tensor:
    results = []
    for index, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * SCALE - 0.5 for corner in corners)
        width, height = x2 - x1, y2 - y1
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                move_x, move_y = (0, 0) if offset is None else GAMMA * offset[index, :, row, column]
                samples = [
                    interpolate(features[int(image)], y + move_y * height, x + move_x * width)
                    for y in divide_bin(y1, height, SIZE[0], row, sampling_ratio)
                    for x in divide_bin(x1, width, SIZE[1], column, sampling_ratio)
                ]
                nothing = torch.zeros_like(features[0, :, 0, 0])
                results.append(torch.stack(samples).mean(0) if samples else nothing)
    return torch.stack(results).view(len(rois), *SIZE, -1).permute(0, 3, 1, 2)


def call_deform_roi_pool(rois: torch.Tensor, sampling_ratio: int):
    return lambda features, offset: deform_roi_pool(features, rois, offset, SIZE, SCALE, sampling_ratio, GAMMA)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("has_offset", [True, False])
def test_deform_roi_pool_equals_the_reference(has_offset, sampling_ratio, dtype, device):
    features, rois, offset = make_features(dtype), make_rois(dtype), make_offset(dtype) if has_offset else None
    expected, expected_gradients = compute_with_gradients(
        lambda x, d: average_moved_bins(x, rois.double(), d, sampling_ratio),
        features.double(),
        offset.double() if has_offset else None,
    )
    output, gradients = run_torchops(
        compute_with_gradients,
        call_deform_roi_pool(rois.to(device), sampling_ratio),
        features.to(device),
        offset.to(device) if has_offset else None,
    )
    assert output.dtype == dtype
    assert_same(output.double().cpu(), expected)
    assert_same(gradients[0].double().cpu(), expected_gradients[0])
    if has_offset:  # the first RoI alone is inside the image, where mmcv's gradient of the offset is exact
        assert_same(gradients[1][0].double().cpu(), expected_gradients[1][0])


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_deform_roi_pool_gradients(sampling_ratio):
    rois = torch.tensor([[0, 7.3, 6.1, 20.7, 17.9], [1, 11.0, 4.9, 17.5, 20.2]], dtype=torch.float64)
    features = make_features().requires_grad_()
    offset = make_offset()[: len(rois)].requires_grad_()
    assert run_torchops(torch.autograd.gradcheck, call_deform_roi_pool(rois, sampling_ratio), (features, offset))


def compute_offset_gradient(features: torch.Tensor, rois: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return mmcv's gradient of the sum of the outputs with one sample for each bin, written from the CUDA source."""
    height, width = features.shape[2:]
    gradient = torch.zeros_like(offset)
    for index, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * SCALE - 0.5 for corner in corners)
        roi_width, roi_height = x2 - x1, y2 - y1
        plane = features[int(image)].sum(0)
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                move_x, move_y = (GAMMA * offset[index, :, row, column]).tolist()
                y = y1 + move_y * roi_height + (row + 0.5) * roi_height / SIZE[0]
                x = x1 + move_x * roi_width + (column + 0.5) * roi_width / SIZE[1]
                if not (-1 <= y <= height and -1 <= x <= width):
                    continue
                top, left = min(int(max(y, 0)), height - 1), min(int(max(x, 0)), width - 1)
                bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
                # The position is not clipped into the image here.
                slope_x = (plane[bottom, right] - plane[bottom, left]) * (y - top)
                slope_x += (plane[top, right] - plane[top, left]) * (bottom - y)
                slope_y = (plane[bottom, right] - plane[top, right]) * (x - left)
                slope_y += (plane[bottom, left] - plane[top, left]) * (right - x)
                gradient[index, :, row, column] = GAMMA * torch.stack([roi_width * slope_x, roi_height * slope_y])
    return gradient


def test_offset_gradients_at_the_border_are_those_of_mmcv():
    features, rois, offset = make_features(), make_rois(), make_offset().requires_grad_()
    run_torchops(lambda: call_deform_roi_pool(rois, 1)(features, offset).sum().backward())
    assert_same(offset.grad, compute_offset_gradient(features, rois, offset.detach()))


FAMILIES = {
    "maximum": lambda rois, offset: lambda features: roi_pool(features, rois, SIZE, SCALE),
    "moved": lambda rois, offset: lambda features: call_deform_roi_pool(rois, 2)(features, offset),
    "dense moved": lambda rois, offset: lambda features: call_deform_roi_pool(rois, 0)(features, offset),
}
families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_no_rois(family):
    function = FAMILIES[family](make_rois()[:0], make_offset()[:0])
    output, gradients = run_torchops(compute_with_gradients, function, make_features())
    assert output.shape == (0, 3, *SIZE)
    assert_same(gradients, [None])


@families
def test_one_roi(family):
    leaf = make_features()[:1].requires_grad_()
    roi, offset = make_rois()[:1], make_offset()[:1]
    one = FAMILIES[family](roi, offset)
    two = FAMILIES[family](roi.expand(2, -1), offset.expand(2, -1, -1, -1))
    gradient = run_torchops(lambda: torch.autograd.grad(one(leaf).sum(), leaf)[0])
    assert_same(run_torchops(two, leaf), run_torchops(one, leaf).expand(2, -1, -1, -1))
    assert_same(run_torchops(lambda: torch.autograd.grad(two(leaf).sum(), leaf)[0]), 2 * gradient)


@families
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(family, dtype):
    features = make_features(dtype)
    function = FAMILIES[family](make_rois(torch.float32), make_offset(torch.float32))
    expected = run_torchops(compute_with_gradients, function, features.float())
    output, gradients = run_torchops(compute_with_gradients, function, features)
    assert output.dtype == gradients[0].dtype == dtype
    assert_same(output, expected[0].to(dtype))
    assert_same(gradients[0].float(), expected[1][0], atol=0.05, rtol=0.05)


def test_low_precision_of_rois_and_offsets():
    for dtype in (torch.float16, torch.bfloat16):
        function = call_deform_roi_pool(make_rois(dtype), 2)
        output, gradients = run_torchops(compute_with_gradients, function, make_features(dtype), make_offset(dtype))
        assert output.dtype == gradients[0].dtype == gradients[1].dtype == dtype


@families
def test_autocast(family):
    features = make_features(torch.float32)
    function = FAMILIES[family](make_rois(torch.float32), make_offset(torch.float32))
    expected = run_torchops(compute_with_gradients, function, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(compute_with_gradients, function, features), expected)
        run_torchops(compute_with_gradients, function, features.bfloat16())


@families
def test_compile(family):
    features = make_features()
    function = FAMILIES[family](make_rois(), make_offset())
    expected = run_torchops(compute_with_gradients, function, features)
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, features), expected)


@families
def test_memory_formats(family):
    features = make_features()
    expected = run_torchops(compute_with_gradients, FAMILIES[family](make_rois(), make_offset()), features)
    rois = make_rois().t().contiguous().t()
    offset = make_offset().to(memory_format=torch.channels_last)
    function = FAMILIES[family](rois, offset)
    strided = features.to(memory_format=torch.channels_last)
    assert_same(run_torchops(compute_with_gradients, function, strided), expected)
    leaf = features.clone().requires_grad_()
    output = run_torchops(function, leaf)
    gradients = run_torchops(torch.autograd.grad, output, leaf, torch.ones_like(output), retain_graph=True)
    expanded = torch.ones(1, 1, 1, 1, dtype=output.dtype).expand_as(output)
    assert_same(run_torchops(torch.autograd.grad, output, leaf, expanded), gradients)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_the_chunk_size_changes_nothing(sampling_ratio, monkeypatch):
    arguments = (
        compute_with_gradients,
        call_deform_roi_pool(make_rois(), sampling_ratio),
        make_features(),
        make_offset(),
    )
    expected = run_torchops(*arguments)
    for chunk_size in (1, 40):
        monkeypatch.setattr(computing, "CPU_CHUNK", chunk_size)
        assert_same(run_torchops(*arguments), expected)


@families
def test_deterministic_algorithms(family):
    features = make_features()
    function = FAMILIES[family](make_rois(), make_offset())
    expected = run_torchops(compute_with_gradients, function, features)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(run_torchops(compute_with_gradients, function, features), expected)
    finally:
        torch.use_deterministic_algorithms(False)
