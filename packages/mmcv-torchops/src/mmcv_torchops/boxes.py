"""Overlaps of axis-aligned and of rotated boxes."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .computing import as_float

# Pairs of boxes that are computed at a time: as many as a CPU's cache holds, and few launches on other devices.
CPU_PAIRS_PER_CHUNK, PAIRS_PER_CHUNK = 2**15, 2**20
# Rotated boxes of a smaller area overlap nothing.
MIN_AREA = 1e-14


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int = 0, aligned: bool = False, offset: int = 0
) -> None:
    """Write the IoU (mode 0), or the intersection over the area of the first box (mode 1), into ``ious``.

    Boxes are (M, 4) and (N, 4) as x1, y1, x2, y2, of width x2 - x1 + offset. ``ious`` is (M, N), or (M,) for the pairs
    in order if ``aligned``. Two boxes without area give NaN.
    """
    compute = partial(compute_overlaps, mode=mode, offset=offset)
    if aligned:
        ious.copy_(compute(bboxes1, bboxes2))
    else:
        fill_pairs(ious, bboxes1, bboxes2, compute)


def compute_overlaps(boxes1: Tensor, boxes2: Tensor, mode: int, offset: int) -> Tensor:
    """Return the overlaps of axis-aligned boxes (..., 4) and (..., 4) of broadcastable shapes."""
    x1, y1, x2, y2 = as_float(boxes1).unbind(-1)
    other_x1, other_y1, other_x2, other_y2 = as_float(boxes2).unbind(-1)
    width = (torch.minimum(x2, other_x2) - torch.maximum(x1, other_x1) + offset).clamp(min=0)
    height = (torch.minimum(y2, other_y2) - torch.maximum(y1, other_y1) + offset).clamp(min=0)
    intersection = width * height
    base = (x2 - x1 + offset) * (y2 - y1 + offset)
    if mode == 0:
        base = base + (other_x2 - other_x1 + offset) * (other_y2 - other_y1 + offset) - intersection
    return intersection / base


def fill_pairs(out: Tensor, boxes1: Tensor, boxes2: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Write what ``compute`` returns for all pairs of boxes (M, .) and (N, .) into ``out`` (M, N), by rows."""
    pairs = CPU_PAIRS_PER_CHUNK if out.device.type == "cpu" else PAIRS_PER_CHUNK
    rows = max(1, pairs // max(1, len(boxes2)))
    for start in range(0, len(boxes1), rows):
        chunk = slice(start, start + rows)
        out[chunk].copy_(compute(boxes1[chunk, None], boxes2))


@torch.no_grad()
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int = 0, aligned: bool = False) -> None:
    """Write the IoU (mode 0), or the intersection over the area of the first box (mode 1), into ``ious``.

    Boxes are (M, 5) and (N, 5) as centre x, y, width, height and angle in radians, clockwise in an image. ``ious`` has
    M * N elements, row by row, or M for the pairs in order if ``aligned``.
    """
    if aligned:
        ious.copy_(compute_rotated_overlaps(boxes1, boxes2, mode_flag))
    else:
        ious.copy_(compute_pairwise_rotated_overlaps(boxes1, boxes2, mode_flag).view_as(ious))


def compute_pairwise_rotated_overlaps(boxes1: Tensor, boxes2: Tensor, mode_flag: int = 0) -> Tensor:
    """Return the overlaps (M, N) of rotated boxes (M, 5) and (N, 5)."""
    overlaps = as_float(boxes1).new_empty(len(boxes1), len(boxes2))
    fill_pairs(overlaps, boxes1, boxes2, partial(compute_rotated_overlaps, mode_flag=mode_flag))
    return overlaps


def compute_rotated_overlaps(boxes1: Tensor, boxes2: Tensor, mode_flag: int = 0) -> Tensor:
    """Return the overlaps of rotated boxes (..., 5) and (..., 5) of broadcastable shapes; 0 for boxes without area."""
    boxes1, boxes2 = as_float(boxes1), as_float(boxes2)
    area1, area2 = boxes1[..., 2] * boxes1[..., 3], boxes2[..., 2] * boxes2[..., 3]
    intersection = compute_rotated_intersections(boxes1, boxes2)
    base = area1 + area2 - intersection if mode_flag == 0 else area1
    return (intersection / base).masked_fill((area1 < MIN_AREA) | (area2 < MIN_AREA), 0)


def compute_rotated_intersections(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the area that rotated boxes (..., 5) and (..., 5) of broadcastable shapes share.

    In the first box's frame, where it is [-w, w] x [-h, h], the area is the integral along the second box's outline,
    over the x within [-w, w], of the outline's y clamped to [-h, h]: at each x, the outline runs one way above and the
    other way below, which leaves the difference. Parallel and coincident edges need no special care.
    """
    x1, y1, width1, height1, angle1 = boxes1.unbind(-1)
    x2, y2, width2, height2, angle2 = boxes2.unbind(-1)
    cos1, sin1, cos2, sin2 = angle1.cos(), angle1.sin(), angle2.cos(), angle2.sin()
    cos, sin = cos1 * cos2 + sin1 * sin2, cos1 * sin2 - sin1 * cos2
    dx, dy = x2 - x1, y2 - y1
    x, y = dx * cos1 + dy * sin1, dy * cos1 - dx * sin1
    w1, h1, w2, h2 = width1.abs() / 2, height1.abs() / 2, width2.abs() / 2, height2.abs() / 2

    corner_x = torch.stack([x + w2 * cos - h2 * sin, x - w2 * cos - h2 * sin])
    corner_x = torch.cat([corner_x, 2 * x - corner_x])
    corner_y = torch.stack([y + w2 * sin + h2 * cos, y - w2 * sin + h2 * cos])
    corner_y = torch.cat([corner_y, 2 * y - corner_y])
    inner_x = torch.clamp(corner_x, -w1, w1)
    next_inner_x = inner_x.roll(-1, 0)
    length_x, length_y = corner_x.roll(-1, 0) - corner_x, corner_y.roll(-1, 0) - corner_y
    length_x = length_x.masked_fill(length_x == 0, 1)
    start_y = corner_y + length_y * (inner_x - corner_x) / length_x
    end_y = corner_y + length_y * (next_inner_x - corner_x) / length_x
    area = ((inner_x - next_inner_x) * compute_clamped_mean(start_y, end_y, h1)).sum(0)

    # Exactly 0 if an axis of either box separates them.
    abs_cos, abs_sin = cos.abs(), sin.abs()
    apart = (x.abs() >= w1 + w2 * abs_cos + h2 * abs_sin) | (y.abs() >= h1 + w2 * abs_sin + h2 * abs_cos)
    apart |= (x * cos + y * sin).abs() >= w2 + w1 * abs_cos + h1 * abs_sin
    apart |= (y * cos - x * sin).abs() >= h2 + w1 * abs_sin + h1 * abs_cos
    return area.clamp(min=0).masked_fill(apart, 0)


def compute_clamped_mean(start: Tensor, end: Tensor, limit: Tensor) -> Tensor:
    """Return the mean of clamp(y, -limit, limit) for y uniform between start and end."""
    first, last = torch.clamp(start, -limit, limit), torch.clamp(end, -limit, limit)
    length = (end - start).abs()
    outside = ((start - first).abs() - (end - last).abs()) / length.masked_fill(length == 0, 1)
    return (first + last + (first - last) * outside) / 2
