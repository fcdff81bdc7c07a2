"""Compare the sizes of images, as a pipeline reads them, with their annotations. Only the headers are read."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import mmcv
from mmengine.config import Config
from PIL import Image

from van_mm.datasets.checks.annotations import is_kind_of, load_coco, spread_indices
from van_mm.datasets.checks.problem import Problem

MAX_HEADERS = 1000  # largest number of images whose headers are read at the start of a run (our choice)
WRONG_SHARE = 0.01  # share of images with a wrong size from which on a run does not start (our choice)
ORIENTATION_TAG = 0x0112  # of EXIF: 1 is upright, 5 to 8 swap height and width
TURNED_REMEDY = (
    "Annotate the images as they are read, save them upright without the tag, or read them as stored with "
    "dict(type='LoadImageFromFile', color_type='color_ignore_orientation') in the pipelines"
)
STORED_REMEDY = "Set color_type='color' in LoadImageFromFile of the pipelines, or annotate the images as stored"


def get_loader_settings(dataset) -> tuple[str, str]:
    """Return ``color_type`` and the decoding backend of the transform that reads the images of a data set."""
    for transform in getattr(getattr(dataset, "pipeline", None), "transforms", ()):
        if hasattr(transform, "color_type"):
            return transform.color_type, getattr(transform, "imdecode_backend", None) or mmcv.image.io.imread_backend
    return "color", "cv2"


def reads_orientation(color_type: str, backend: str) -> bool:
    """Return whether mmcv turns images by their EXIF orientation."""
    return color_type in ("color", "grayscale") and backend in ("cv2", "pillow")


@lru_cache(maxsize=4096)
def read_size(path: str, color_type: str = "color", backend: str = "cv2") -> tuple[tuple[int, int], int]:
    """Read the size that a pipeline sees, and the EXIF orientation, from the header of an image.

    Args:
        path (str): The image file.
        color_type (str): As of ``LoadImageFromFile``. Defaults to 'color'.
        backend (str): Its ``imdecode_backend``. Defaults to 'cv2'.

    Returns:
        tuple[tuple[int, int], int]: Height and width, and the orientation from 1 to 8, which is 1 without a tag.

    Raises:
        OSError: If Pillow cannot read the header.
    """
    with Image.open(path) as image:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        width, height = image.size
        is_jpeg = image.format in ("JPEG", "MPO")
    if orientation not in range(2, 9):
        return (height, width), 1
    if not is_jpeg:  # whether the tag is read depends on the format and the version of OpenCV
        decoded = mmcv.imread(path, flag=color_type, backend=backend)
        return decoded.shape[:2] if decoded is not None else (height, width), orientation
    is_turned = orientation > 4 and reads_orientation(color_type, backend)
    return ((width, height) if is_turned else (height, width)), orientation


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if images are not as large as their annotations or label maps say.

    Images that EXIF turns are named apart from other ones. If their size doesn't show whether the annotations are of
    the turned image, because they are square or turned by 180 degrees, a warning counts them.
    """
    settings = get_loader_settings(dataset)
    sizes = get_pose_sizes(dataset)
    turned, other, unclear, checked = [], [], [], 0
    for index in spread_indices(len(dataset), MAX_HEADERS):
        info = dataset.get_data_info(int(index))
        path, expected = info.get("img_path"), get_expected_size(info, sizes)
        if not isinstance(path, str) or expected is None:
            if index == 0:
                return
            continue
        try:
            size, orientation = read_size(path, *settings)
        except Exception:  # missing and broken images are reported as such
            continue
        checked += 1
        example = f"{path} ({size[0]} x {size[1]} instead of {expected[0]} x {expected[1]})"
        if size != expected and orientation > 1 and size[::-1] == expected:
            turned.append(example)
        elif size != expected and "height" not in info and sizes is None:
            continue  # label maps of another size are reported by segmentation.py
        elif size != expected:
            other.append(example)
        elif orientation > 1 and (orientation <= 4 or size[0] == size[1]):
            unclear.append(path)
    total = f"{checked} images" + (f" (a sample of {len(dataset)})" if checked < len(dataset) else "")
    reads = reads_orientation(*settings)
    if turned:
        mismatch = "turned when they are read, but annotated as stored"
        if not reads:
            mismatch = "read as stored, but annotated as turned"
        yield Problem(
            f"{len(turned)} of {total} of the {split} data set have an EXIF orientation and are {mismatch}, for "
            f"instance {turned[0]}. {TURNED_REMEDY if reads else STORED_REMEDY}",
            is_error=len(turned) > WRONG_SHARE * checked,
        )
    if other:
        yield Problem(
            f"{len(other)} of {total} of the {split} data set have another size than their annotations say, for "
            f"instance {other[0]}. Correct 'height' and 'width', and check that the annotations are of this size",
            is_error=len(other) > WRONG_SHARE * checked,
        )
    if unclear:
        state = "and are turned when they are read" if reads else "and are read as stored"
        yield Problem(
            f"{len(unclear)} of {total} of the {split} data set have an EXIF orientation {state}, and their size does "
            f"not show whether the annotations fit, for instance {unclear[0]}. Look at some of them with "
            "tools/visualization/browse_dataset.py",
            is_error=False,
        )


def get_pose_sizes(dataset) -> dict | None:
    """Return height and width by image id from the file of a pose data set, or None for other data sets."""
    content = load_coco(getattr(dataset, "ann_file", None)) if is_kind_of(dataset, "BaseCocoStyleDataset") else None
    if content is None:
        return None
    return {image.get("id"): (image.get("height"), image.get("width")) for image in content["images"]}


def get_expected_size(info: dict, sizes: dict | None) -> tuple[int, int] | None:
    """Return the height and width that the annotations of a sample are made for, or None if they have no size."""
    if sizes is not None:
        size = sizes.get(info.get("img_id"))
        return size if size and None not in size else None
    if {"height", "width"} <= set(info):
        return info["height"], info["width"]
    label_map = info.get("seg_map_path")
    if isinstance(label_map, str) and Path(label_map).is_file():
        with Image.open(label_map) as image:
            return image.size[::-1]
    return None
