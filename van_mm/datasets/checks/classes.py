"""Check the classes of a data set against its annotation file, its folders, the model's heads and the other splits."""

from collections.abc import Iterator

from mmengine.config import Config

from van_mm.datasets.bad_samples import iter_innermost_datasets
from van_mm.datasets.checks.annotations import join_names, load_annotations
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import get_type_name

HEAD_KEYS = {"head", "bbox_head", "mask_head", "decode_head", "auxiliary_head", "roi_head", "panoptic_head"}
# num_classes of mmseg's head for the boundaries of objects is the number of its two loss terms.
OTHER_COUNTS = {"STDCHead"}


def get_classes(dataset) -> tuple[str, ...]:
    """Return the names of a data set's classes, or an empty tuple if it has none."""
    classes = getattr(dataset, "metainfo", {}).get("classes")
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else ()


def reads_class_names(cfg: Config) -> bool:
    """Return whether the model compares images with the names of classes, so that any data set has its own ones."""
    return "language_model" in cfg.model or "text_encoder" in cfg.model


def iter_heads(node, path: str = "model") -> Iterator[tuple[str, dict]]:
    """Yield the dotted path and the config of each head that has ``num_classes``."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list, tuple)) and (key in HEAD_KEYS or not isinstance(key, str)):
            if isinstance(value, dict) and isinstance(value.get("num_classes"), int):
                yield f"{path}.{key}", value
            yield from iter_heads(value, f"{path}.{key}")


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield the problems of one data set's classes: with its annotation file, its folders and the model's heads."""
    classes = get_classes(dataset)
    ids = getattr(dataset, "cat_ids", None)
    if ids is not None and len(ids) < len(classes):
        categories = {category["name"] for category in load_annotations(dataset.ann_file)["categories"]}
        missing = [name for name in classes if name not in categories]
        yield Problem(
            f"{dataset.ann_file} has no categories {', '.join(missing[:10])} ({len(missing)} of the {len(classes)} "
            f"classes). It has {', '.join(sorted(categories)[:10])}. Set dataset.metainfo=dict(classes=(...)) to the "
            "categories of this file, and num_classes of the heads to their number, in a config or with --cfg-options"
        )
    folders = get_folders(dataset)
    if folders and set(folders) == set(classes) and folders != classes:
        yield Problem(
            f"the classes of the {split} data set are in the order {join_names(classes)}, but labels follow the "
            f"sorted folders, {join_names(folders)}. List the classes in the order of the folders, or leave them out"
        )
    if classes and not reads_class_names(cfg):
        yield from find_head_problems(cfg, dataset, split, len(classes))


def get_folders(dataset) -> tuple[str, ...]:
    """Return the class folders of a data set of mmpretrain in the order of their labels, or an empty tuple."""
    folders = getattr(dataset, "folder_to_idx", None) or {}
    return tuple(sorted(folders, key=folders.get))


def find_head_problems(cfg: Config, dataset, split: str, num_classes: int) -> Iterator[Problem]:
    """Yield a problem for each head that has fewer or more classes than the data set."""
    things = dataset.metainfo.get("thing_classes")
    for path, head in iter_heads(cfg.model):
        expected = len(things) if things and ".roi_head." in path else num_classes
        found = head["num_classes"]
        if get_type_name(head) in OTHER_COUNTS or found == expected:
            continue
        name = "thing classes" if expected != num_classes else "classes"
        problem = f"{path}.num_classes is {found}, but the {split} data set has {expected} {name}"
        if found < expected:
            yield Problem(
                f"{problem}. Set {path}.num_classes to {expected}, or list fewer classes in dataset.metainfo.classes"
            )
        elif cfg.get("default_scope") != "mmseg" or found > 1:  # heads of one class are reported by segmentation.py
            fails = cfg.get("default_scope") == "mmdet" and split != "train"
            effect = "the metric fails on predictions of" if fails else "no image or metric has a name for"
            yield Problem(
                f"{problem}: {effect} class {expected} and above. Set {path}.num_classes to {expected}, or list all "
                "classes of the head in dataset.metainfo.classes",
                is_error=fails,
            )


def find_split_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a problem for each data set whose classes, or class folders, differ from those of the first data set."""
    if reads_class_names(cfg):
        return
    parts = [(split, part) for split, dataset in datasets.items() for part in iter_innermost_datasets(dataset)]
    for get_names, kind in ((get_folders, "class folders"), (get_classes, "classes")):
        named = [(split, names) for split, part in parts if (names := get_names(part))]
        found = set()
        for split, names in named[1:]:
            first_split, first = named[0]
            if names == first or (split, names) in found:
                continue
            found.add((split, names))
            is_prefix = all(a == b for a, b in zip(names, first, strict=False))  # the labels that both have agree
            remedy = (
                f"Give both the same folders, which may be empty ({describe_difference(first, names)})"
                if kind == "class folders"
                else f"Give both the same names in the same order ({describe_difference(first, names)})"
            )
            yield Problem(
                f"the {first_split} and {split} data sets have different {kind}: {join_names(first, 20)} "
                f"({len(first)}) and {join_names(names, 20)} ({len(names)})"
                + ("" if is_prefix else ", so that a label stands for different classes")
                + f". {remedy}",
                is_error=not is_prefix,
            )
        if found:
            return


def describe_difference(first: tuple[str, ...], second: tuple[str, ...]) -> str:
    """Return which names only one of two lists has, or the first position at which their order differs."""
    only = [name for name in first if name not in second], [name for name in second if name not in first]
    if any(only):
        return "; ".join(
            f"only the {which} has {join_names(names)}"
            for which, names in zip(("first", "second"), only, strict=True)
            if names
        )
    index = next(i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
    return f"label {index} is {first[index]} in one and {second[index]} in the other"
