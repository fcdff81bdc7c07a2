"""Check boxes: their format, and whether the data set uses them."""

from collections.abc import Iterator

import numpy as np
from mmengine.config import Config

from van_mm.datasets.checks.annotations import get_annotations, is_kind_of, load_coco, spread_indices
from van_mm.datasets.checks.problem import Problem

UNUSED_SHARE = 0.01  # share of unused annotations from which on a warning is printed (our choice)
BEYOND_SHARE = 0.1  # the same for boxes that extend beyond their image
# Boxes are taken for corners if nearly all could be, and at least this share extends beyond the image otherwise.
CORNER_SHARE = 0.2
MAX_SAMPLES = 1000  # largest number of samples of a data set without a COCO file that are read (our choice)


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if boxes from other files than COCO's, such as XML files, have no area or extend too far."""
    if not is_kind_of(dataset, "BaseDetDataset") or load_coco(getattr(dataset, "ann_file", None)) is not None:
        return
    boxes, sizes = [], []
    for index in spread_indices(len(dataset), MAX_SAMPLES):
        info = dataset.get_data_info(int(index))
        found = [item["bbox"] for item in info.get("instances") or () if len(item.get("bbox") or ()) == 4]
        boxes += found
        sizes += [(info.get("width") or np.inf, info.get("height") or np.inf)] * len(found)
    if not boxes:
        return
    box, size = np.array(boxes, dtype=float), np.array(sizes, dtype=float)
    box[:, 2:] -= box[:, :2]
    small = (box[:, 2:] < 1).any(axis=1)
    problem = f"{small.sum()} of {len(box)} boxes of the {split} data set ({getattr(dataset, 'ann_file', '')})"
    if small.sum() >= UNUSED_SHARE * len(box) and small.any():
        hint = ", and all values are at most 1: are the boxes relative?" if box[small].max() <= 1 else ""
        yield Problem(
            f"{problem} are under one pixel{hint}. Write boxes in pixels, with xmax > xmin and ymax > ymin",
            is_error=bool(small.all()),
        )
    yield from find_beyond_problems(box, size, f"the {split} data set")


def find_box_problems(content: dict, path: str, drops_boxes: bool) -> Iterator[Problem]:
    """Yield a problem if annotations are not used, or if boxes are relative, corners or beyond their image.

    Args:
        content (dict): A COCO file with annotations.
        path (str): Name of the file for messages.
        drops_boxes (bool): Whether the data set leaves out boxes without ``area`` or under one pixel, as mmdet does.
    """
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in content["images"]}
    annotations = [
        annotation
        for annotation in get_annotations(content)
        if not annotation.get("ignore") and len(annotation.get("bbox") or ()) == 4
    ]
    annotations = [item for item in annotations if None not in sizes.get(item.get("image_id"), (None,))]
    if not annotations:
        return
    total = len(annotations)
    box = np.array([annotation["bbox"] for annotation in annotations], dtype=float)
    size = np.array([sizes[annotation["image_id"]] for annotation in annotations], dtype=float)
    start, extent = box[:, :2], box[:, 2:]
    if box.max() <= 1 and (extent > 0).any() and size.min() > 2:
        yield Problem(
            f"{total} of {total} annotations of {path} have boxes under one pixel: all values are at most 1, so the "
            "boxes seem to be relative. Write boxes as [x, y, width, height] in pixels, and 'area' as width * height"
        )
        return
    yield from find_beyond_problems(box, size, path)
    if not drops_boxes:
        return
    areas = np.array([annotation.get("area", 1) for annotation in annotations], dtype=float)
    inside = np.minimum(start + extent, size) - np.maximum(start, 0)
    reasons = {  # in the order of precedence
        "without width or height": (extent <= 0).any(axis=1),
        "with an 'area' of 0": areas <= 0,
        "under one pixel": (extent < 1).any(axis=1),
        "outside of their image": (inside <= 0).any(axis=1),
    }
    counts, unused = {}, np.zeros(total, dtype=bool)
    for reason, is_unused in reasons.items():
        counts[reason] = int((is_unused & ~unused).sum())
        unused |= is_unused
    if unused.sum() >= UNUSED_SHARE * total and unused.any():
        listing = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        small = " Some of their values are at most 1: are these boxes relative?" if box[unused].max() <= 1 else ""
        yield Problem(
            f"{unused.sum()} of {total} annotations of {path} are not used ({listing}).{small} Write boxes as [x, y, "
            "width, height] in pixels, and 'area' as the area of the mask or as width * height",
            is_error=bool(unused.all()),
        )


def find_beyond_problems(box: np.ndarray, size: np.ndarray, path: str) -> Iterator[Problem]:
    """Yield a problem if many boxes extend beyond their image, as corners do that are read as widths and heights.

    Args:
        box (np.ndarray): Boxes as in the file, of shape (N, 4).
        size (np.ndarray): Width and height of their images, of shape (N, 2).
        path (str): Name of the file for messages.
    """
    start, extent = box[:, :2], box[:, 2:]
    beyond = ((start < -1) | (start + extent > size + 1)).any(axis=1)
    may_be_corners = ((extent >= start) & (extent <= size + 1)).all(axis=1)
    problem = f"{beyond.sum()} of {len(box)} boxes of {path} extend beyond their image"
    if may_be_corners.mean() > 0.95 and beyond.mean() >= CORNER_SHARE:
        yield Problem(
            f"{problem}, and would not if they were corners [x1, y1, x2, y2]. Write boxes as [x, y, width, height]: "
            "[x1, y1, x2 - x1, y2 - y1]"
        )
    elif beyond.mean() >= BEYOND_SHARE:
        yield Problem(
            f"{problem}. Write boxes as [x, y, width, height] in pixels, and the size of each image in 'images'",
            is_error=False,
        )
