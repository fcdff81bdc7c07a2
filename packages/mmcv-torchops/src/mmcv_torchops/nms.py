"""Non-maximum suppression of axis-aligned and of rotated boxes.

Boxes of equal score are taken in the order in which ``torch.sort`` returns them, as in mmcv. Thresholds are rounded to
float32, mmcv's type of these arguments, so that an overlap that equals the threshold is treated as there.
"""

import numpy as np
import torch
import torchvision
from torch import Tensor

from .boxes import compute_pairwise_rotated_overlaps
from .computing import as_float

# Rotated boxes that are compared with all following ones at a time.
ROTATED_BLOCK = 256


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the kept boxes by descending score; a kept box suppresses those of IoU > threshold.

    ``boxes`` is (N, 4) as x1, y1, x2, y2, of width x2 - x1 + offset.
    """
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    order = scores.sort(0, descending=True)[1]
    boxes = as_float(boxes[order])
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    ranks = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return order[torchvision.ops.nms(boxes, ranks, float(np.float32(iou_threshold)))]


@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Write the kept boxes and their new scores into the first rows of ``dets`` (N, 5), and return their indices.

    The box of the highest score is kept, and multiplies each remaining score by 0 (method 0) or 1 - IoU (method 1) if
    IoU >= threshold, or by exp(-IoU^2 / sigma) (method 2); then the next one follows. A box whose score falls below
    ``min_score`` is removed, and the last box takes its place, which decides the order of equal scores.
    Source: Bodla et al., Soft-NMS, ICCV 2017; mmcv/ops/csrc/pytorch/cpu/nms.cpp.
    """
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    # Rows: x1, y1, x2, y2, area, score. Columns: kept boxes in order, then the remaining ones.
    table = np.concatenate([_tabulate(boxes, offset), as_float(scores.cpu()).numpy()[None]])
    iou_threshold, sigma, min_score = np.float32(iou_threshold), np.float32(sigma), np.float32(min_score)
    kept, count = 0, table.shape[1]
    indices = np.arange(count)
    with np.errstate(divide="ignore", invalid="ignore"):
        while kept < count:
            best = kept + _find_highest(table[5, kept:count])
            table[:, [kept, best]] = table[:, [best, kept]]
            indices[[kept, best]] = indices[[best, kept]]
            box, rest = table[:, kept], table[:, kept + 1 : count]
            iou = _compute_ious(box, rest, offset)
            if method == 2:
                # Rounded from float64, as the C library's float exponential is, so that close scores keep their order.
                rest[5] *= np.exp(-(iou * iou) / sigma, dtype=np.float64).astype(iou.dtype)
            else:
                hit = iou >= iou_threshold
                rest[5, hit] *= 1 - iou[hit] if method == 1 else 0
            kept += 1
            count = kept + _replace_removed(rest[5] < min_score, rest, indices[kept:count])
    dets[:count] = torch.from_numpy(table[[0, 1, 2, 3, 5], :count].T)
    return torch.from_numpy(indices[:count])


def _find_highest(scores: np.ndarray) -> int:
    """Return the first position of the highest score. A NaN (from boxes without area) counts if it comes first."""
    best = scores.argmax()
    if np.isnan(scores[best]):
        return 0 if np.isnan(scores[0]) else np.nanargmax(scores)
    return best


def _replace_removed(removed: np.ndarray, table: np.ndarray, indices: np.ndarray) -> int:
    """Put the last remaining columns, backwards, in the places of removed ones; return the number of remaining ones."""
    count = len(removed) - np.count_nonzero(removed)
    if count == len(removed):
        return count
    places = np.flatnonzero(removed[:count])
    last = count + np.flatnonzero(~removed[count:])[::-1]
    table[:, places] = table[:, last]
    indices[places] = indices[last]
    return count


@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return a group of indices for each kept box: its own, then those it suppresses, with IoU >= threshold.

    ``dets`` is (N, 5) as x1, y1, x2, y2, score. Groups, and the indices within them, are in descending order of score.
    """
    order = dets[:, 4].contiguous().sort(0, descending=True)[1].cpu().numpy()
    boxes = _tabulate(dets[:, :4], 0)[:, order]
    groups = []
    with np.errstate(divide="ignore", invalid="ignore"):
        while len(order):
            matched = _compute_ious(boxes[:, 0], boxes, 0) >= np.float32(iou_threshold)
            matched[0] = True
            groups.append(order[matched].tolist())
            order, boxes = order[~matched], boxes[:, ~matched]
    return groups


def _tabulate(boxes: Tensor, offset: int) -> np.ndarray:
    """Return the rows x1, y1, x2, y2 and area of boxes (N, 4)."""
    x1, y1, x2, y2 = as_float(boxes.cpu()).numpy().T
    return np.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])


def _compute_ious(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of a column of a table with all columns of another one."""
    width = np.maximum(np.minimum(box[2], boxes[2]) - np.maximum(box[0], boxes[0]) + offset, 0)
    height = np.maximum(np.minimum(box[3], boxes[3]) - np.maximum(box[1], boxes[1]) + offset, 0)
    intersection = width * height
    return intersection / (box[4] + boxes[4] - intersection)


@torch.no_grad()
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Return the indices of the kept boxes by descending score.

    ``dets_sorted`` is ``dets[order]``, and begins with centre x, y, width, height and angle in radians. A kept box
    suppresses those of IoU >= threshold on a CPU, and of IoU > threshold on other devices. As in mmcv, labels are not
    regarded: boxes of different classes suppress one another, unless ``batched_nms`` has moved them apart.
    """
    suppresses = torch.ge if dets.device.type == "cpu" else torch.gt
    iou_threshold = float(np.float32(iou_threshold))
    boxes = dets_sorted[:, :5]
    remaining = torch.arange(len(boxes), device=boxes.device)
    kept = [remaining[:0]]
    while len(remaining):
        block, remaining = remaining[:ROTATED_BLOCK], remaining[ROTATED_BLOCK:]
        overlaps = compute_pairwise_rotated_overlaps(boxes[block], boxes[block])
        block = block[_suppress_greedily(suppresses(overlaps, iou_threshold))]
        overlaps = compute_pairwise_rotated_overlaps(boxes[block], boxes[remaining])
        remaining = remaining[~suppresses(overlaps, iou_threshold).any(0)]
        kept.append(block)
    return order[torch.cat(kept)]


def _suppress_greedily(hits: Tensor) -> Tensor:
    """Return the mask of kept boxes in order, for hits[i, j] whether box i would suppress a later box j."""
    kept = np.ones(len(hits), dtype=bool)
    for i, row in enumerate(hits.cpu().numpy()):
        if kept[i]:
            kept[i + 1 :] &= ~row[i + 1 :]
    return torch.from_numpy(kept).to(hits.device)
