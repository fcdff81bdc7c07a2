"""Overlaps of axis-aligned and of rotated boxes, against loops in double precision and against a compiled mmcv."""

import math

import pytest
import torch
from mmcv.ops import bbox_overlaps, box_iou_rotated, get_compiler_version, get_compiling_cuda_version
from torchops_testing import DEVICES, assert_same, needs_compiled, run_compiled, run_torchops


def make_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 4, generator=generator) * 50
    corners[:, 2:] += corners[:, :2]
    return corners


def make_rotated_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([100.0, 100.0, 50.0, 50.0, 14.0])
    return torch.rand(count, 5, generator=generator) * scale - torch.tensor([0, 0, -1.0, -1.0, 7.0])


def make_special_rotated_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs of boxes that are equal, nested, parallel, crossed, touching, apart, turned by pi / 2, or empty."""
    first = make_rotated_boxes(20)
    second = first.clone()
    second[2:4, 2:4] *= 0.5
    second[4:6, :2] += 7
    second[6:8, 4] += math.pi / 2
    first[8:12, 4] = second[8:12, 4] = 0
    second[8:10, 0] += first[8:10, 2]
    second[10:12, 0] += first[10:12, 2] / 2
    second[12:14, :2] += 200
    second[14, 2] = first[15, 2] = 0
    second[16:18, 2:4] *= torch.tensor([9.0, 0.1])
    second[18:, 4] += 0.001
    return first, second


def compute_reference_overlap(box: list[float], other: list[float], mode: str, offset: int) -> float:
    def measure_area(x1: float, y1: float, x2: float, y2: float) -> float:
        return (x2 - x1 + offset) * (y2 - y1 + offset)

    width = min(box[2], other[2]) - max(box[0], other[0]) + offset
    height = min(box[3], other[3]) - max(box[1], other[1]) + offset
    intersection = max(width, 0) * max(height, 0)
    return intersection / (measure_area(*box) + (measure_area(*other) - intersection if mode == "iou" else 0))


def clip_polygon(polygon: list[complex], start: complex, end: complex) -> list[complex]:
    """Return the part of a convex polygon to the left of a line (Sutherland and Hodgman, 1974)."""

    def measure_side(point: complex) -> float:
        return ((end - start).conjugate() * (point - start)).imag

    clipped = []
    for point, following in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        side, next_side = measure_side(point), measure_side(following)
        if side >= 0:
            clipped.append(point)
        if side * next_side < 0:
            clipped.append(point + (following - point) * (side / (side - next_side)))
    return clipped


def compute_reference_rotated_overlap(box: list[float], other: list[float], mode: str) -> float:
    def make_corners(x: float, y: float, width: float, height: float, angle: float) -> list[complex]:
        turn = complex(math.cos(angle), math.sin(angle))
        signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
        return [complex(x, y) + turn * complex(width * sx, height * sy) / 2 for sx, sy in signs]

    areas = box[2] * box[3], other[2] * other[3]
    if min(areas) < 1e-14:
        return 0.0
    polygon, corners = make_corners(*box), make_corners(*other)
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        polygon = clip_polygon(polygon, start, end)
    edges = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    area = sum((point.conjugate() * following).imag for point, following in edges) / 2
    return area / (sum(areas) - area if mode == "iou" else areas[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps_equal_the_reference(mode, offset, device):
    boxes, others = make_boxes(9), make_boxes(7, seed=1)
    expected = torch.tensor(
        [[compute_reference_overlap(a, b, mode, offset) for b in others.tolist()] for a in boxes.tolist()]
    )
    overlaps = run_torchops(bbox_overlaps, boxes.to(device), others.to(device), mode, False, offset)
    assert_same(overlaps.cpu(), expected)
    aligned = run_torchops(bbox_overlaps, boxes[:7].to(device), others.to(device), mode, True, offset)
    assert_same(aligned.cpu(), expected[:7].diagonal())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bbox_overlaps_of_half_boxes_are_computed_in_float32(dtype):
    boxes = (make_boxes(9) * 20).to(dtype)
    overlaps = run_torchops(bbox_overlaps, boxes, boxes)
    assert overlaps.dtype == dtype
    assert_same(overlaps, run_torchops(bbox_overlaps, boxes.float(), boxes.float()).to(dtype))


def test_bbox_overlaps_have_the_gradient_of_the_formula():
    boxes, others = make_boxes(4).double().requires_grad_(), make_boxes(3, seed=1).double().requires_grad_()
    assert run_torchops(torch.autograd.gradcheck, bbox_overlaps, (boxes, others))


@pytest.mark.parametrize("aligned", [False, True])
def test_overlaps_of_no_boxes_are_empty(aligned):
    shape = (0,) if aligned else (0, 0)
    assert run_torchops(bbox_overlaps, torch.zeros(0, 4), torch.zeros(0, 4), aligned=aligned).shape == shape
    assert run_torchops(box_iou_rotated, torch.zeros(0, 5), torch.zeros(0, 5), aligned=aligned).shape == shape
    assert run_torchops(box_iou_rotated, torch.zeros(2, 5), torch.zeros(0, 5)).shape == (2, 0)
    assert run_torchops(box_iou_rotated, torch.zeros(0, 5), torch.zeros(2, 5)).shape == (0, 2)


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps_equal_compiled_ones(mode, aligned, offset, dtype):
    boxes, others = make_boxes(300).to(dtype), make_boxes(300, seed=1).to(dtype)
    boxes[:2] = others[:2] = 3
    arguments = boxes.flip(0), others.T.contiguous().T, mode, aligned, offset
    expected = run_compiled(bbox_overlaps, *arguments)
    torch.testing.assert_close(run_torchops(bbox_overlaps, *arguments), expected, atol=1e-6, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotated_overlaps_equal_the_reference(dtype, mode, device):
    boxes, others = (
        torch.cat(both) for both in zip(make_special_rotated_pairs(), (make_rotated_boxes(9),) * 2, strict=True)
    )
    boxes, others = boxes.to(device, dtype), others.to(device, dtype)
    expected = torch.tensor(
        [[compute_reference_rotated_overlap(a, b, mode) for b in others.tolist()] for a in boxes.tolist()], dtype=dtype
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    overlaps = run_torchops(box_iou_rotated, boxes, others, mode).cpu()
    assert_same(overlaps, expected, tolerance, tolerance)
    aligned = run_torchops(box_iou_rotated, boxes, others, mode, aligned=True).cpu()
    assert_same(aligned, expected.diagonal(), tolerance, tolerance)


def test_rotated_overlaps_of_counterclockwise_boxes_turn_the_other_way():
    boxes, others = make_rotated_boxes(9), make_rotated_boxes(7, seed=1)
    mirror = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0])
    overlaps = run_torchops(box_iou_rotated, boxes, others, clockwise=False)
    assert_same(overlaps, run_torchops(box_iou_rotated, boxes * mirror, others * mirror))


def test_rotated_overlaps_of_upright_boxes_are_those_of_axis_aligned_ones():
    corners = make_boxes(50)
    rotated = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2], torch.zeros(50, 1)], 1)
    assert_same(run_torchops(box_iou_rotated, rotated, rotated), run_torchops(bbox_overlaps, corners, corners))


def test_rotated_boxes_that_an_axis_separates_overlap_by_exactly_0():
    boxes = make_rotated_boxes(300)
    overlaps = run_torchops(box_iou_rotated, boxes, boxes)
    expected = run_torchops(box_iou_rotated, boxes.double(), boxes.double())
    assert not overlaps[expected == 0].any()


def test_rotated_overlaps_do_not_depend_on_the_chunks():
    boxes, others = make_rotated_boxes(500), make_rotated_boxes(400, seed=1)
    overlaps = run_torchops(box_iou_rotated, boxes, others)
    assert_same(overlaps[::50], run_torchops(box_iou_rotated, boxes[::50], others), 0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rotated_overlaps_of_half_boxes_are_computed_in_float32(dtype):
    boxes = make_rotated_boxes(9).to(dtype)
    overlaps = run_torchops(box_iou_rotated, boxes, boxes)
    assert_same(overlaps, run_torchops(box_iou_rotated, boxes.float(), boxes.float()).to(dtype))


@needs_compiled
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("clockwise", [False, True])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_rotated_overlaps_equal_compiled_ones(mode, clockwise, aligned):
    boxes, others = (
        torch.cat(both)
        for both in zip(make_special_rotated_pairs(), [make_rotated_boxes(80), make_rotated_boxes(80, 1)], strict=True)
    )
    arguments = boxes, others, mode, aligned, clockwise
    assert_same(run_torchops(box_iou_rotated, *arguments), run_compiled(box_iou_rotated, *arguments))


def test_overlaps_work_in_compiled_functions():
    boxes, rotated = make_boxes(9), make_rotated_boxes(9)
    for function, inputs in (bbox_overlaps, boxes), (box_iou_rotated, rotated):
        compiled = torch.compile(function, backend="aot_eager")
        assert_same(run_torchops(compiled, inputs, inputs), run_torchops(function, inputs, inputs))


def test_the_compilation_is_reported_as_text():
    assert "PyTorch" in run_torchops(get_compiler_version)
    assert run_torchops(get_compiling_cuda_version) == (torch.version.cuda or torch.version.hip or "not available")
