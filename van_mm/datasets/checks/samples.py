"""Check every single sample: decode its image, load its annotations, and compare the two."""

from collections.abc import Collection
from functools import lru_cache

import numpy as np
from PIL import Image

from van_mm.datasets.checks.images import get_loader_settings, read_size
from van_mm.datasets.checks.segmentation import DEFAULT_IGNORED, describe_wrong_map, get_map_loader, read_map
from van_mm.utils.errors import format_error


@lru_cache(maxsize=256)  # cached because pose data sets have one sample per person, not per image
def find_image_problem(path: str) -> tuple[str | None, tuple[int, int]]:
    """Decode an image file to its last byte.

    Args:
        path (str): The image file.

    Returns:
        tuple[str | None, tuple[int, int]]: The problem, or None. Height and width, which are 0 if there is a problem.
    """
    try:
        with Image.open(path) as image:
            size = image.size[::-1]
            image.load()
        return None, size
    except FileNotFoundError:
        return "the file is missing", (0, 0)
    except Exception as error:  # each of Pillow's formats raises its own errors
        return f"the image can't be read: {error}", (0, 0)


def find_map_problem(dataset, info: dict) -> str | None:
    """Return the problem of the raw label map of a sample, which its pipeline would hide, or None."""
    loader, path = get_map_loader(dataset), info.get("seg_map_path")
    if loader is None or not isinstance(path, str):
        return None
    try:
        problem = describe_wrong_map(read_map(path, loader), path, loader.imdecode_backend)
    except Exception:  # the pipeline reports files that can't be read
        return None
    return f"the label map {path} {problem}" if problem else None


def find_sample_problems(dataset, index: int, ignored: Collection[int] = (DEFAULT_IGNORED,)) -> tuple[str, list[str]]:
    """Return all problems of one sample: of its image, boxes, labels, segmentation map and keypoints.

    Args:
        dataset (BaseDataset): A data set whose pipeline only loads the image and the annotations.
        index (int): Index of the sample.
        ignored (Collection[int]): Labels of segmentation maps that the heads ignore. Defaults to (255,).

    Returns:
        tuple[str, list[str]]: The image file, and one message per problem. Sizes in messages are height x width.
    """
    info = dataset.get_data_info(index)
    file = str(info.get("img_path", f"image {index}"))
    if "img_path" not in info and isinstance(info.get("img"), np.ndarray):  # data sets such as CIFAR-10
        size = info["img"].shape[:2]
    else:
        image_problem, size = find_image_problem(file)
        if image_problem:
            return file, [image_problem]
        size = read_size(file, *get_loader_settings(dataset))[0]  # as the pipeline sees it, turned by EXIF or not
    if map_problem := find_map_problem(dataset, info):
        return file, [map_problem]
    problems = []
    if {"height", "width"} <= set(info) and (info["height"], info["width"]) != size:
        problems.append(
            f"the annotation says that the image has {info['height']} x {info['width']} pixels, but it has "
            f"{size[0]} x {size[1]}"
        )
    try:
        sample = dataset.pipeline(info)
    except Exception as error:
        return file, [*problems, format_error(error)]
    height, width = size
    num_classes = len(dataset.metainfo.get("classes") or ())

    def check_labels(labels, name: str, *ignored: int) -> None:
        labels = np.unique(np.asarray(labels))
        is_wrong = ((labels < 0) | (labels >= num_classes)) & ~np.isin(labels, ignored)
        if num_classes and is_wrong.any():
            listing = ", ".join(map(str, labels[is_wrong][:5].tolist()))
            problems.append(f"{name} {listing}: there are {num_classes} classes, from 0")

    if "gt_bboxes" in sample:
        boxes = np.asarray(getattr(sample["gt_bboxes"], "tensor", sample["gt_bboxes"])).reshape(-1, 4)
        if not np.isfinite(boxes).all():
            problems.append("a box has coordinates that are not finite")
        elif (boxes[:, 2:] <= boxes[:, :2]).any():
            problems.append("a box has no area")
        elif (boxes < -1).any() or (boxes > np.array([width, height] * 2) + 1).any():
            problems.append(f"a box extends beyond the image of {height} x {width}")
        check_labels(sample["gt_bboxes_labels"], "box label")
    if "gt_label" in sample:
        check_labels(sample["gt_label"], "label")
    if "gt_seg_map" in sample:
        labels = sample["gt_seg_map"]
        if labels.shape[:2] != size:
            problems.append(
                f"a map of {labels.shape[0]} x {labels.shape[1]} for an image of {height} x {width} has the wrong size"
            )
        check_labels(labels, "label", *ignored)
    if "keypoints" in sample:
        points, visible = np.asarray(sample["keypoints"])[..., :2], np.asarray(sample["keypoints_visible"])
        visible = (visible[..., 0] if visible.ndim == points.ndim else visible) > 0
        if not np.isfinite(points).all():
            problems.append("a keypoint has coordinates that are not finite")
        elif ((points[visible] < -1) | (points[visible] > np.array([width, height]) + 1)).any():
            problems.append(f"a keypoint beyond the image of {height} x {width} is marked as visible")
    return file, problems
