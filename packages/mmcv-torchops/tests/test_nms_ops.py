"""Non-maximum suppression, against loops in double precision and against a compiled mmcv."""

import math

import pytest
import torch
from mmcv.ops import batched_nms, bbox_overlaps, box_iou_rotated, nms, nms_match, nms_rotated, soft_nms
from torchops_testing import DEVICES, assert_same, needs_compiled, run_compiled, run_torchops

CASES = ["random", "tied", "integer", "duplicate"]
THRESHOLDS = [0.0, 0.1, 0.5, 0.6, 0.7]


def make_detections(case: str, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 4, generator=generator) * 60
    corners[:, 2:] += corners[:, :2]
    scores = torch.rand(count, generator=generator)
    if case == "tied":
        scores = (scores * 8).round() / 8
    elif case == "integer":
        corners = (corners / 10).round()
    elif case == "duplicate":
        corners[count // 2 :] = corners[: count // 2]
        scores[count // 2 :] = scores[: count // 2]
    return corners, scores


def make_rotated_detections(case: str, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    corners, scores = make_detections(case, count)
    generator = torch.Generator().manual_seed(1)
    sizes = corners[:, 2:] - corners[:, :2]
    return torch.cat([corners[:, :2], sizes, torch.rand(count, 1, generator=generator) * 6], dim=1), scores


def suppress(overlaps: torch.Tensor, scores: torch.Tensor, threshold: float, inclusive: bool) -> list[list[int]]:
    """Return each kept index and those that it suppresses."""
    order = scores.sort(0, descending=True)[1].tolist()
    groups, suppressed = [], set()
    for position, i in enumerate(order):
        if i in suppressed:
            continue
        rest = [j for j in order[position + 1 :] if j not in suppressed]
        hits = [j for j in rest if (overlaps[i][j] >= threshold if inclusive else overlaps[i][j] > threshold)]
        suppressed.update(hits)
        groups.append([i, *hits])
    return groups


def suppress_softly(
    boxes: torch.Tensor, scores: torch.Tensor, threshold: float, min_score: float, method: str, offset: int
) -> tuple[list[float], list[int]]:
    """Return the scores and the indices that a list of remaining boxes leaves, one comparison at a time."""
    overlaps = bbox_overlaps_of(boxes, offset)
    remaining = [(score, index) for index, score in enumerate(scores.tolist())]
    kept = []
    while remaining:
        best = max(range(len(remaining)), key=lambda i: (remaining[i][0], -i))
        remaining[0], remaining[best] = remaining[best], remaining[0]
        kept.append(remaining[0])
        position = 1
        while position < len(remaining):
            score, index = remaining[position]
            iou = overlaps[kept[-1][1]][index]
            if method == "gaussian":
                score *= math.exp(-(iou**2) / 0.5)
            elif iou >= threshold:
                score *= 1 - iou if method == "linear" else 0
            remaining[position] = score, index
            if score < min_score:
                last = remaining.pop()
                if position < len(remaining):
                    remaining[position] = last
            else:
                position += 1
        remaining.pop(0)
    return [score for score, _ in kept], [index for _, index in kept]


def bbox_overlaps_of(boxes: torch.Tensor, offset: int) -> list[list[float]]:
    return run_torchops(bbox_overlaps, boxes.double(), boxes.double(), offset=offset).tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_nms_keeps_the_boxes_of_the_reference(case, threshold, offset, device):
    boxes, scores = make_detections(case)
    scores = scores.to(device)
    groups = suppress(bbox_overlaps_of(boxes, offset), scores, threshold, inclusive=False)
    dets, indices = run_torchops(nms, boxes.to(device), scores, threshold, offset)
    assert indices.tolist() == [group[0] for group in groups]
    assert_same(dets.cpu(), torch.cat([boxes, scores.cpu()[:, None]], dim=1)[indices.cpu()], 0, 0)


def test_nms_suppresses_only_above_the_threshold():
    boxes = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1], [2, 0, 5, 1]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert run_torchops(nms, boxes, scores, 0.6)[1].tolist() == [0, 1, 2]
    assert run_torchops(nms, boxes, scores, 0.599)[1].tolist() == [0]
    assert run_torchops(nms_match, torch.cat([boxes, scores[:, None]], dim=1), 0.6)[0].tolist() == [0, 1, 2]
    assert run_torchops(soft_nms, boxes, scores, 0.6, min_score=0.1, method="naive")[1].tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_all_kinds_work_on_all_floating_types(dtype):
    boxes, scores = (tensor.to(dtype) for tensor in make_detections("random", 50))
    expected = run_torchops(nms, boxes.float(), scores.float(), 0.5)[1]
    assert_same(run_torchops(nms, boxes, scores, 0.5)[1], expected)
    dets, indices = run_torchops(soft_nms, boxes, scores)
    expected_dets, expected = run_torchops(soft_nms, boxes.float(), scores.float())
    assert dets.dtype == dtype
    assert_same(indices, expected)
    assert_same(dets, expected_dets.to(dtype))
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    assert_same(run_torchops(nms_match, dets, 0.5), run_torchops(nms_match, dets.float(), 0.5))
    rotated = make_rotated_detections("random", 50)[0].to(dtype)
    expected = run_torchops(nms_rotated, rotated.float(), scores.float(), 0.5)[1]
    assert_same(run_torchops(nms_rotated, rotated, scores, 0.5)[1], expected)


def test_no_boxes_give_no_indices():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for function in nms, soft_nms:
        dets, indices = run_torchops(function, boxes, scores, 0.5)
        assert dets.shape == (0, 5)
        assert indices.shape == (0,) and indices.dtype == torch.long
    assert run_torchops(nms_match, torch.zeros(0, 5), 0.5) == []
    assert run_torchops(nms_rotated, torch.zeros(0, 5), scores, 0.5)[1] is None


def test_nms_works_on_arrays_and_strided_tensors_and_under_autocast():
    boxes, scores = make_detections("tied")
    expected = run_torchops(nms, boxes, scores, 0.5)[1]
    strided = torch.stack([boxes, boxes], dim=-1)[..., 0]
    assert_same(run_torchops(nms, strided, scores, 0.5)[1], expected)
    assert run_torchops(nms, boxes.numpy(), scores.numpy(), 0.5)[1].tolist() == expected.tolist()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(nms, boxes.requires_grad_(), scores, 0.5)[1], expected)


def test_nms_works_in_compiled_functions():
    boxes, scores = make_detections("tied")
    compiled = torch.compile(nms, backend="aot_eager")
    assert_same(run_torchops(compiled, boxes, scores, 0.5), run_torchops(nms, boxes, scores, 0.5))


@pytest.mark.parametrize("kind", ["nms", "soft_nms", "nms_rotated"])
def test_batched_nms_keeps_classes_apart(kind):
    boxes, scores = make_rotated_detections("random") if kind == "nms_rotated" else make_detections("random")
    labels = torch.arange(len(boxes)) % 3
    function = {"nms": nms, "soft_nms": soft_nms, "nms_rotated": nms_rotated}[kind]
    _, kept = run_torchops(batched_nms, boxes, scores, labels, {"type": kind, "iou_threshold": 0.3})
    single = [
        (labels == label).nonzero()[:, 0][
            run_torchops(function, boxes[labels == label], scores[labels == label], 0.3)[1]
        ]
        for label in range(3)
    ]
    assert sorted(kept.tolist()) == sorted(torch.cat(single).tolist())


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [0.0, 0.2])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("case", CASES)
def test_soft_nms_equals_the_reference(case, method, min_score, offset):
    boxes, scores = (tensor.double() for tensor in make_detections(case, 60))
    boxes[:, 2:] += 1 - offset
    dets, indices = run_torchops(soft_nms, boxes, scores, 0.25, 0.5, min_score, method, offset)
    expected_scores, expected = suppress_softly(boxes, scores, 0.25, min_score, method, offset)
    assert indices.tolist() == expected
    assert_same(dets[:, :4], boxes[indices])
    assert_same(dets[:, 4], torch.tensor(expected_scores, dtype=torch.float64))


@pytest.mark.parametrize("threshold", [0.1, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_nms_match_equals_the_reference(case, threshold):
    boxes, scores = make_detections(case)
    groups = run_torchops(nms_match, torch.cat([boxes, scores[:, None]], dim=1), threshold)
    expected = suppress(bbox_overlaps_of(boxes, 0), scores, threshold, inclusive=True)
    assert [group.tolist() for group in groups] == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.05, 0.45])
@pytest.mark.parametrize("case", CASES)
def test_nms_rotated_keeps_the_boxes_of_the_reference(case, threshold, device):
    boxes, scores = make_rotated_detections(case, 600)
    overlaps = run_torchops(box_iou_rotated, boxes.double(), boxes.double()).tolist()
    scores = scores.to(device)
    expected = [group[0] for group in suppress(overlaps, scores, threshold, inclusive=True)]
    dets, indices = run_torchops(nms_rotated, boxes.to(device), scores, threshold)
    assert indices.tolist() == expected
    assert dets.shape == (len(expected), 6)
    labels = torch.arange(len(boxes), device=device) % 3
    assert run_torchops(nms_rotated, boxes.to(device), scores, threshold, labels)[1].tolist() == expected
    mirror = torch.tensor([1.0, 1, 1, 1, -1], device=device)
    mirrored = run_torchops(nms_rotated, boxes.to(device) * mirror, scores, threshold, clockwise=False)
    assert mirrored[1].tolist() == expected


@needs_compiled
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("case", CASES)
def test_nms_equals_a_compiled_one(case, threshold, offset):
    arguments = *make_detections(case, 1000), threshold, offset
    assert_same(run_torchops(nms, *arguments), run_compiled(nms, *arguments), 0, 0)


@needs_compiled
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [0.0, 0.2])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("case", CASES)
def test_soft_nms_equals_a_compiled_one(case, method, min_score, offset):
    boxes, scores = make_detections(case, 300)
    boxes[::50, 2:] = boxes[::50, :2]
    for threshold in THRESHOLDS:
        arguments = boxes, scores, threshold, 0.5, min_score, method, offset
        dets, indices = run_torchops(soft_nms, *arguments)
        expected_dets, expected = run_compiled(soft_nms, *arguments)
        assert_same(indices, expected)
        torch.testing.assert_close(dets, expected_dets, atol=1e-6, rtol=1e-6, equal_nan=True)


@needs_compiled
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("case", CASES)
def test_nms_match_equals_a_compiled_one(case, threshold):
    boxes, scores = make_detections(case, 500)
    arguments = torch.cat([boxes, scores[:, None]], dim=1), threshold
    assert_same(run_torchops(nms_match, *arguments), run_compiled(nms_match, *arguments))


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("case", CASES)
def test_nms_rotated_equals_a_compiled_one(case, threshold, with_labels, dtype):
    boxes, scores = (tensor.to(dtype) for tensor in make_rotated_detections(case, 400))
    arguments = boxes, scores, threshold, torch.arange(400) % 3 if with_labels else None
    assert_same(run_torchops(nms_rotated, *arguments), run_compiled(nms_rotated, *arguments), 0, 0)
