"""RoI Align, upright and rotated, against loops in double precision and against a compiled mmcv."""

import math

import mmcv_torchops
import pytest
import torch
from mmcv.ops import roi_align, roi_align_rotated
from mmcv_torchops import computing
from roi_testing import divide_bin, interpolate, make_features
from torchops_testing import (
    DEVICES,
    EXT,
    assert_same,
    compute_with_gradients,
    needs_compiled,
    run_compiled,
    run_torchops,
)

SIZE = (3, 2)
SCALE = 0.25
LOW_PRECISION = [torch.float16, torch.bfloat16]


def make_rois(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return RoIs in an image of 36 x 44 pixels: inside, across the border, around the image, outside, and empty."""
    return torch.tensor(
        [
            [0, 5.3, 4.1, 20.7, 17.9],
            [1, 30.2, 22.6, 38.1, 33.3],
            [1, -9.7, -5.2, 12.4, 7.1],
            [0, -20.4, -30.3, 70.1, 60.2],
            [1, 60.1, 60.4, 80.3, 90.2],
            [0, 12.3, 7.7, 12.3, 7.7],
            [1, 12.3, 7.7, 12.3, 15.1],
            [0, 40.1, 33.2, 47.3, 41.6],
        ],
        dtype=dtype,
    )


def make_rotated_rois(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rois = make_rois()
    centres, sizes = (rois[:, 1:3] + rois[:, 3:]) / 2, rois[:, 3:] - rois[:, 1:3]
    angles = torch.tensor([0, 0.3, -0.7, 1.9, 3.0, -2.4, math.pi / 2, 0.01], dtype=torch.float64)
    return torch.cat([rois[:, :1], centres, sizes, angles[:, None]], dim=1).to(dtype)


def pool_upright(
    features: torch.Tensor, rois: torch.Tensor, sampling_ratio: int, mode: str, aligned: bool
) -> torch.Tensor:
    results = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (corner * SCALE - 0.5 * aligned for corner in corners)
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                samples = [
                    interpolate(features[int(image)], y, x)
                    for y in divide_bin(y1, height, SIZE[0], row, sampling_ratio)
                    for x in divide_bin(x1, width, SIZE[1], column, sampling_ratio)
                ]
                nothing = torch.zeros_like(features[0, :, 0, 0])
                if mode == "avg":
                    results.append(torch.stack(samples).mean(0) if samples else nothing)
                else:
                    results.append(torch.stack(samples).amax(0) if samples else nothing - 10000)
    return torch.stack(results).view(len(rois), *SIZE, -1).permute(0, 3, 1, 2)


def pool_rotated(
    features: torch.Tensor, rois: torch.Tensor, sampling_ratio: int, aligned: bool, clockwise: bool
) -> torch.Tensor:
    results = []
    for image, x, y, width, height, angle in rois.tolist():
        centre = complex(x * SCALE - 0.5 * aligned, y * SCALE - 0.5 * aligned)
        width, height = (max(side * SCALE, 0 if aligned else 1) for side in (width, height))
        turn = complex(math.cos(angle), math.sin(angle) if clockwise else -math.sin(angle))
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                points = [
                    centre + turn * complex(x, y)
                    for y in divide_bin(-height / 2, height, SIZE[0], row, sampling_ratio)
                    for x in divide_bin(-width / 2, width, SIZE[1], column, sampling_ratio)
                ]
                samples = [interpolate(features[int(image)], point.imag, point.real) for point in points]
                results.append(torch.stack(samples).mean(0) if samples else torch.zeros_like(features[0, :, 0, 0]))
    return torch.stack(results).view(len(rois), *SIZE, -1).permute(0, 3, 1, 2)


def call_upright(rois: torch.Tensor, sampling_ratio: int = 2, mode: str = "avg", aligned: bool = True):
    return lambda features: roi_align(features, rois, SIZE, SCALE, sampling_ratio, mode, aligned)


def call_rotated(rois: torch.Tensor, sampling_ratio: int = 2, aligned: bool = True, clockwise: bool = False):
    return lambda features: roi_align_rotated(features, rois, SIZE, SCALE, sampling_ratio, aligned, clockwise)


FAMILIES = {
    "mean": lambda dtype: call_upright(make_rois(dtype)),
    "maximum": lambda dtype: call_upright(make_rois(dtype), mode="max"),
    "rotated": lambda dtype: call_rotated(make_rotated_rois(dtype)),
    "dense mean": lambda dtype: call_upright(make_rois(dtype), 0),
    "dense maximum": lambda dtype: call_upright(make_rois(dtype), 0, mode="max"),
    "dense rotated": lambda dtype: call_rotated(make_rotated_rois(dtype), 0),
}
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_align_equals_the_reference(mode, aligned, sampling_ratio, dtype, device):
    features, rois = make_features(dtype), make_rois(dtype)
    expected, expected_gradients = compute_with_gradients(
        lambda x: pool_upright(x, rois.double(), sampling_ratio, mode, aligned), features.double()
    )
    function = call_upright(rois.to(device), sampling_ratio, mode, aligned)
    output, gradients = run_torchops(compute_with_gradients, function, features.to(device))
    assert output.dtype == dtype
    assert_same((output.double().cpu(), [gradients[0].double().cpu()]), (expected, expected_gradients))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotated_roi_align_equals_the_reference(clockwise, aligned, sampling_ratio, dtype, device):
    features, rois = make_features(dtype), make_rotated_rois(dtype)
    expected, expected_gradients = compute_with_gradients(
        lambda x: pool_rotated(x, rois.double(), sampling_ratio, aligned, clockwise), features.double()
    )
    function = call_rotated(rois.to(device), sampling_ratio, aligned, clockwise)
    output, gradients = run_torchops(compute_with_gradients, function, features.to(device))
    assert output.dtype == dtype
    assert_same((output.double().cpu(), [gradients[0].double().cpu()]), (expected, expected_gradients))


def run_maximum_forward(features: torch.Tensor, rois: torch.Tensor, extension=mmcv_torchops, sampling_ratio: int = 2):
    """Return the maxima and the y and x of their samples, with ``aligned``."""
    results = [features.new_zeros(len(rois), features.shape[1], *SIZE) for _ in range(3)]
    extension.roi_align_forward(
        features,
        rois,
        *results,
        aligned_height=SIZE[0],
        aligned_width=SIZE[1],
        spatial_scale=SCALE,
        sampling_ratio=sampling_ratio,
        pool_mode=0,
        aligned=True,
    )
    return results


def test_the_first_of_equal_maxima_counts():
    rois = torch.tensor([[0, 6.0, 6.0, 22.0, 30.0]])  # 4 x 6 pixels from (1, 1): a pixel has one sample for ratio 2
    maximum, y, x = run_maximum_forward(torch.ones(1, 1, 9, 11), rois)
    assert_same(maximum, torch.ones(1, 1, *SIZE))
    assert_same(y[0, 0], torch.tensor([1.5, 3.5, 5.5])[:, None].expand(SIZE))
    assert_same(x[0, 0], torch.tensor([1.5, 3.5]).expand(SIZE))


def test_the_maximum_is_at_least_minus_10000():
    features = torch.full((1, 1, 9, 11), -20000.0)
    rois = torch.tensor([[0, 6.0, 6.0, 22.0, 30.0]])
    maximum, y, x = run_maximum_forward(features, rois)
    assert (maximum == -10000).all() and (y == -1).all() and (x == -1).all()
    _, (gradient,) = run_torchops(compute_with_gradients, call_upright(rois, mode="max"), features)
    assert not gradient.any()


@families
def test_no_rois(family):
    operator = roi_align_rotated if family.endswith("rotated") else roi_align
    sampling_ratio = 0 if "dense" in family else 2
    mode = ("max",) if family.endswith("maximum") else ()
    rois = torch.zeros(0, 6 if operator is roi_align_rotated else 5)
    output, gradients = run_torchops(
        compute_with_gradients, lambda x: operator(x, rois, SIZE, SCALE, sampling_ratio, *mode), make_features()
    )
    assert output.shape == (0, 3, *SIZE)
    assert_same(gradients, [None])


@families
def test_one_roi(family):
    leaf = make_features()[:1].requires_grad_()
    rotated = family.endswith("rotated")
    roi = (make_rotated_rois() if rotated else make_rois())[:1]
    sampling_ratio, mode = 0 if "dense" in family else 2, "max" if family.endswith("maximum") else "avg"
    one, two = (
        (call_rotated(rois, sampling_ratio) if rotated else call_upright(rois, sampling_ratio, mode))
        for rois in (roi, roi.expand(2, -1))
    )
    gradient = run_torchops(lambda: torch.autograd.grad(one(leaf).sum(), leaf)[0])
    assert_same(run_torchops(two, leaf), run_torchops(one, leaf).expand(2, -1, -1, -1))
    assert_same(run_torchops(lambda: torch.autograd.grad(two(leaf).sum(), leaf)[0]), 2 * gradient)


@pytest.mark.parametrize("family", ["maximum", "rotated", "dense maximum", "dense rotated"])
def test_rois_that_are_not_numbers_have_no_samples(family):
    operator = roi_align_rotated if family.endswith("rotated") else roi_align
    rois = make_rotated_rois() if family.endswith("rotated") else make_rois()
    broken = torch.cat([rois, torch.cat([torch.zeros(1, 1), torch.full((1, rois.shape[1] - 1), math.nan)], 1)])
    sampling_ratio = 0 if "dense" in family else 2
    mode = ("max",) if family.endswith("maximum") else ()
    features = make_features()
    expected = run_torchops(operator, features, rois, SIZE, SCALE, sampling_ratio, *mode)
    actual = run_torchops(operator, features, broken, SIZE, SCALE, sampling_ratio, *mode)
    assert_same(actual[:-1], expected)
    assert actual.isfinite().all()


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_rois_of_negative_size_have_no_dense_samples(mode):
    rois = torch.tensor([[0, 20.0, 5.0, 10.0, 15.0], [0, 20.0, 15.0, 10.0, 5.0]])
    output = run_torchops(call_upright(rois, 0, mode), make_features(torch.float32))
    assert (output == (0 if mode == "avg" else -10000)).all()


@families
@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_low_precision(family, dtype):
    features = make_features(dtype)
    expected, expected_gradients = run_torchops(
        compute_with_gradients, FAMILIES[family](torch.float32), features.float()
    )
    output, gradients = run_torchops(compute_with_gradients, FAMILIES[family](torch.float32), features)
    assert output.dtype == gradients[0].dtype == dtype
    assert_same(output, expected.to(dtype))
    if not family.endswith("maximum"):  # which keeps the samples' positions in low precision, as mmcv does
        assert_same(gradients[0].float(), expected_gradients[0], atol=0.05, rtol=0.05)


@families
def test_rois_of_low_precision(family):
    features = make_features(torch.float32)
    exact_rois = FAMILIES[family](torch.bfloat16)
    assert run_torchops(exact_rois, features).dtype == torch.float32


@families
def test_autocast(family):
    features = make_features(torch.float32)
    expected = run_torchops(compute_with_gradients, FAMILIES[family](torch.float32), features)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(compute_with_gradients, FAMILIES[family](torch.float32), features), expected)
        run_torchops(compute_with_gradients, FAMILIES[family](torch.float32), features.bfloat16())


@families
def test_compile(family):
    features = make_features()
    expected = run_torchops(compute_with_gradients, FAMILIES[family](torch.float64), features)
    torch.compiler.reset()
    compiled = torch.compile(FAMILIES[family](torch.float64), backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, features), expected)


@families
def test_memory_formats(family):
    features = make_features()
    expected = run_torchops(compute_with_gradients, FAMILIES[family](torch.float64), features)
    function = FAMILIES[family](torch.float64)
    strided = features.to(memory_format=torch.channels_last)
    assert_same(run_torchops(compute_with_gradients, function, strided), expected)
    rotated = family.endswith("rotated")
    rois = (make_rotated_rois() if rotated else make_rois()).t().contiguous().t()
    sampling_ratio = 0 if "dense" in family else 2
    mode = ("max",) if family.endswith("maximum") else ()
    operator = roi_align_rotated if rotated else roi_align
    assert_same(run_torchops(operator, features, rois, SIZE, SCALE, sampling_ratio, *mode), expected[0])


@families
def test_the_chunk_size_changes_nothing(family, monkeypatch):
    features = make_features()
    expected = run_torchops(compute_with_gradients, FAMILIES[family](torch.float64), features)
    for chunk_size in (1, 40):
        monkeypatch.setattr(computing, "CPU_CHUNK", chunk_size)
        assert_same(run_torchops(compute_with_gradients, FAMILIES[family](torch.float64), features), expected)


@families
def test_deterministic_algorithms(family):
    features = make_features()
    expected = run_torchops(compute_with_gradients, FAMILIES[family](torch.float64), features)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(run_torchops(compute_with_gradients, FAMILIES[family](torch.float64), features), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def make_many_rois(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Return upright and rotated RoIs in and around images of 36 x 44 pixels."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 2, (count, 1), generator=generator)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([60, 50]) - 8
    size = torch.rand(count, 2, generator=generator) * 40
    angle = torch.rand(count, 1, generator=generator) * 8 - 4
    return torch.cat([image, centre - size / 2, centre + size / 2], 1), torch.cat([image, centre, size, angle], 1)


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_equal_to_compiled(aligned, sampling_ratio, dtype):
    features = make_features(dtype)
    upright, rotated = (
        torch.cat(rois).to(dtype)
        for rois in zip(make_many_rois(), (make_rois(torch.float32), make_rotated_rois(torch.float32)), strict=True)
    )
    calls = [call_upright(upright, sampling_ratio, mode, aligned) for mode in ("avg", "max")]
    calls += [call_rotated(rotated, sampling_ratio, aligned, clockwise) for clockwise in (False, True)]
    for call in calls:
        expected = run_compiled(compute_with_gradients, call, features)
        assert_same(run_torchops(compute_with_gradients, call, features), expected)


@needs_compiled
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("kind", ["random", "constant", "integers"])
def test_positions_of_maxima_equal_compiled_exactly(kind, sampling_ratio):
    features = make_features(torch.float32)
    if kind != "random":
        features = torch.ones_like(features) if kind == "constant" else features.round()
    rois = torch.cat([make_many_rois()[0], make_rois(torch.float32)])
    for actual, expected in zip(
        run_maximum_forward(features, rois, sampling_ratio=sampling_ratio),
        run_maximum_forward(features, rois, EXT, sampling_ratio),
        strict=True,
    ):
        assert torch.equal(actual, expected)
