"""Check COCO annotation files of boxes, masks, panoptic segments and keypoints."""

import math
from collections import Counter
from collections.abc import Iterator

from mmengine.config import Config, ConfigDict
from mmengine.utils import is_abs

from van_mm.datasets.checks.annotations import (
    get_annotations,
    has_pipeline_setting,
    is_kind_of,
    join_names,
    load_annotations,
    load_coco,
)
from van_mm.datasets.checks.boxes import find_box_problems
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import iter_dicts

REQUIRED_KEYS = dict(  # the keys without which a data set does not build, with what to write there
    images=dict(
        id="a number", file_name="the path below data_prefix.img", width="the width of the image in pixels",
        height="the height of the image in pixels",
    ),
    annotations=dict(
        id="a number from 1 that no other annotation has", image_id="the 'id' of its image",
        category_id="the 'id' of its category", bbox="[x, y, width, height] in pixels",
        area="the area of the mask, or width * height of the box", segments_info="the list of its segments",
    ),
    categories=dict(id="a number", name="the name of the class", isthing="1 for things and 0 for stuff"),
)  # fmt: skip


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield the problems of a data set that reads a COCO annotation file."""
    is_pose = is_kind_of(dataset, "BaseCocoStyleDataset")
    content = load_coco(getattr(dataset, "ann_file", None))
    if content is None or not (is_pose or is_kind_of(dataset, "CocoDataset", "BaseVideoDataset")):
        return
    path, is_panoptic = dataset.ann_file, is_kind_of(dataset, "CocoPanopticDataset")
    yield from find_id_problems(content, path)
    yield from find_reference_problems(content, path)
    yield from find_value_problems(content, path)
    if not is_pose:
        yield from find_class_order_problems(content, path, dataset, split)
    annotations = get_annotations(content)
    if not annotations:
        if split == "train":
            yield Problem(f"{path} has no annotations, so that training learns nothing. Choose another ann_file")
        return
    yield from find_box_problems(content, path, drops_boxes=not is_pose)
    if not (is_pose or is_panoptic) and has_pipeline_setting(cfg, split, "with_mask"):
        yield from find_mask_problems(content, path)


def find_duplicates(values) -> list:
    """Return the values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def find_id_problems(content: dict, path: str) -> Iterator[Problem]:
    """Yield a problem for each kind of ids or names that are not unique."""
    annotations = content.get("annotations") or []
    is_panoptic = bool(annotations) and "segments_info" in annotations[0]
    for section, items in dict(
        images=content["images"],
        annotations=[] if is_panoptic else annotations,
        categories=content.get("categories") or [],
    ).items():
        duplicates = find_duplicates(item.get("id") for item in items)
        if duplicates:
            yield Problem(
                f"'{section}' of {path} has {len(duplicates)} ids more than once, for instance "
                f"{join_names(duplicates, 5)}, and only the last entry of each is read. Give every entry an id of its "
                "own"
            )


def find_reference_problems(content: dict, path: str) -> Iterator[Problem]:
    """Yield a problem for annotations whose image or category is not in the file."""
    annotations = get_annotations(content)
    for section, key in (("images", "image_id"), ("categories", "category_id")):
        if section not in content or not annotations:
            continue
        known = {item.get("id") for item in content[section]}
        unknown = Counter(annotation.get(key) for annotation in annotations if annotation.get(key) not in known)
        if unknown:
            count = sum(unknown.values())
            yield Problem(
                f"{count} of {len(annotations)} annotations of {path} have a {key} that '{section}' does not list "
                f"({join_names(unknown, 5)}; it lists {join_names(sorted(known, key=str), 5)}), and are not used. "
                f"Correct {key}, or add the entries to '{section}'",
                is_error=count == len(annotations),
            )


def is_number(value) -> bool:
    """Return whether a value of a JSON file is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def is_box(value) -> bool:
    """Return whether a value of a JSON file is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def find_value_problems(content: dict, path: str) -> Iterator[Problem]:
    """Yield a problem for each kind of numbers that are strings, null, NaN or incomplete."""
    annotations = [item for item in get_annotations(content) if not item.get("ignore")]
    for section, items, keys, is_valid, remedy in (
        ("images", content["images"], ("height", "width"), is_number, "a number of pixels"),
        ("annotations", annotations, ("bbox",), is_box, "[x, y, width, height] in pixels, as four numbers"),
        ("annotations", annotations, ("area",), is_number, "the area of the mask, or width * height of the box"),
    ):
        for key in keys:
            wrong = [item for item in items if key in item and not is_valid(item[key])]
            if wrong:
                yield Problem(
                    f"{len(wrong)} of {len(items)} '{section}' of {path} have a wrong '{key}', for instance "
                    f"{wrong[0][key]!r} with the id {wrong[0].get('id')}. Write {remedy}"
                )


def find_class_order_problems(content: dict, path: str, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if labels, which follow the order of the file, do not fit the names in ``metainfo.classes``."""
    classes = dataset.metainfo.get("classes") or ()
    if isinstance(classes, str):  # reported by classes.py
        return
    names = {category["id"]: category["name"] for category in content.get("categories") or ()}
    twice = [name for name in find_duplicates(category["name"] for category in names_in(content)) if name in classes]
    if twice:
        yield Problem(
            f"'categories' of {path} has the name {join_names(twice, 5)} more than once, so that there are more labels "
            "than classes. Keep one category of each name, and use its id in all annotations"
        )
        return
    labels = getattr(dataset, "cat2label", {})
    order = [names[category] for category in sorted(labels, key=labels.get) if names.get(category) in classes]
    expected = [name for name in classes if name in order]
    if order != expected:
        yield Problem(
            f"the categories of {path} are in the order {join_names(order)}, but metainfo.classes of the {split} data "
            f"set is in the order {join_names(expected)}. Labels follow the file, so that names and figures would be "
            "wrong: set metainfo.classes of every data set to the order of the file, or sort 'categories' in the file. "
            "The files of all splits need the same order"
        )


def names_in(content: dict) -> list[dict]:
    """Return the categories of a COCO file that have a name."""
    return [category for category in content.get("categories") or () if "name" in category]


def is_short_polygon(polygon) -> bool:
    """Return whether a polygon has less than three points, or half a point."""
    return not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 == 1


def find_mask_problems(content: dict, path: str) -> Iterator[Problem]:
    """Yield a problem for annotations without a usable mask, for a config that trains or evaluates masks."""
    annotations = [  # mmdet leaves out the other ones, with or without mask
        annotation
        for annotation in get_annotations(content)
        if not annotation.get("ignore") and annotation.get("area", 1) > 0 and min(annotation.get("bbox", [1])[2:]) >= 1
    ]
    sizes = {image["id"]: [image.get("height"), image.get("width")] for image in content["images"]}
    other = [
        annotation
        for annotation in annotations
        if isinstance(mask := annotation.get("segmentation"), dict)
        and list(mask.get("size", ())) != sizes.get(annotation["image_id"])
    ]
    if other:
        size, image = other[0]["segmentation"].get("size"), other[0]["image_id"]
        yield Problem(
            f"{len(other)} of {len(annotations)} annotations of {path} have a run-length encoded mask of another size "
            f"than their image, for instance {size} for image {image} of {sizes.get(image)}. Encode masks of "
            "[height, width] of the image"
        )
    masks = [annotation.get("segmentation") for annotation in annotations]
    empty = sum(not mask for mask in masks)
    short = sum(isinstance(mask, list) and bool(mask) and all(map(is_short_polygon, mask)) for mask in masks)
    remedy = (
        "Remove these annotations, write a polygon [[x1, y1, x2, y2, x3, y3, ...]] for each, or use a config without "
        "masks"
    )
    if empty:
        yield Problem(
            f"{empty} of {len(masks)} annotations of {path} have no mask ('segmentation' is missing, null or []), but "
            f"the config needs masks. {remedy}"
        )
    if short:
        yield Problem(
            f"{short} of {len(masks)} annotations of {path} have a mask of less than three points and are not used. "
            f"{remedy}",
            is_error=short == len(masks),
        )


def explain_build_error(cfg: ConfigDict, error: BaseException | None) -> str | None:
    """Return what is wrong with the annotation file of a data set that does not build, or None.

    Args:
        cfg (ConfigDict): Config of the data set, which may be a wrapper.
        error (BaseException, optional): The error of its constructor.
    """
    load_annotations.cache_clear()  # a file may have changed since an earlier call
    for node in iter_dicts(cfg):
        file, root = node.get("ann_file"), node.get("data_root") or ""
        if not isinstance(file, str) or not file:
            continue
        try:
            content = load_coco(file if is_abs(file) or not root else f"{str(root).rstrip('/')}/{file}")
        except ValueError:  # not valid JSON, which the error of the constructor says
            continue
        if content is None or not content["images"]:
            continue
        problems = [
            *find_id_problems(content, file),
            *find_reference_problems(content, file),
            *find_value_problems(content, file),
        ]
        if isinstance(error, KeyError):
            problem = find_missing_key(content, file, error.args[0])
            if problem:
                return problem
        elif not isinstance(error, (AssertionError, TypeError, ValueError)):
            continue
        uneven = sum(len(item.get("keypoints") or ()) % 3 > 0 for item in get_annotations(content))
        if uneven and isinstance(error, ValueError):
            return (
                f"{uneven} annotations of {file} have 'keypoints' of a length that is no multiple of 3. Write x, y and "
                "v, which is 0, 1 or 2, for each keypoint"
            )
        if problems:
            return problems[0].message
    return None


def find_missing_key(content: dict, path: str, key) -> str | None:
    """Return which entries of a COCO file lack a key that a data set asked for."""
    names = {category["id"]: category["name"] for category in names_in(content) if "id" in category}
    if key in names:
        return (
            f"{path} has annotations of category {key}, '{names[key]}', which is not in metainfo.classes. Add the name "
            "to metainfo.classes, or remove these annotations"
        )
    sections = dict(
        images=content["images"], annotations=content.get("annotations"), categories=content.get("categories")
    )
    if key in sections and sections[key] is None:
        return f"{path} has no '{key}'. Add the list of {key} in COCO's format"
    for section, keys in REQUIRED_KEYS.items():
        items = get_annotations(content) if section == "annotations" else sections[section] or []
        missing = sum(key not in item for item in items)
        if key in keys and missing:
            return f"{missing} of {len(items)} '{section}' of {path} have no '{key}'. Add to each '{key}': {keys[key]}"
    return None
