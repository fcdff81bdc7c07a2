"""Check the class counts of the heads that separate things and stuff, such as those of MaskFormer and Mask2Former."""

from collections.abc import Iterator

from mmengine.config import Config

from van_mm.datasets.checks.annotations import is_kind_of, join_names, load_coco
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import get_type_name


def iter_named_dicts(node, path: str) -> Iterator[tuple[str, dict]]:
    """Yield every dict inside a config with its dotted path."""
    if isinstance(node, dict):
        yield path, node
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in items:
        if isinstance(child, (dict, list, tuple)):
            yield from iter_named_dicts(child, f"{path}.{key}")


def count_classes(cfg: Config, dataset) -> tuple[int, int] | None:
    """Return the numbers of things and stuff of a data set, or None if it has no classes.

    The annotation file of panoptic segmentation says which is which. In other data sets, all classes are things.
    """
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    if not classes or isinstance(classes, str):
        return None
    content = load_coco(getattr(dataset, "ann_file", None)) if is_kind_of(dataset, "CocoPanopticDataset") else None
    if content is None:
        return len(classes), 0
    things = {category["name"] for category in content.get("categories") or () if category.get("isthing", 1)}
    count = sum(name in things for name in classes)
    return count, len(classes) - count


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem for each count of things or stuff that is not the data set's."""
    if not is_kind_of(dataset, "CocoDataset", "BaseVideoDataset", "BaseDetDataset"):
        return
    nodes = [
        (path, node)
        for path, node in iter_named_dicts(cfg.model, "model")
        if "num_things_classes" in node or "num_stuff_classes" in node
    ]
    counts = count_classes(cfg, dataset) if nodes else None
    if counts is None:
        return
    expected = dict(num_things_classes=counts[0], num_stuff_classes=counts[1])
    for path, node in nodes:
        for key, count in expected.items():
            if key in node and node[key] != count:
                kind = "thing" if "things" in key else "stuff"
                yield Problem(
                    f"{path}.{key} is {node[key]}, but the {split} data set has {count} {kind} classes. Set "
                    f"num_things_classes={counts[0]} and num_stuff_classes={counts[1]} in panoptic_head, in "
                    "panoptic_fusion_head and in the other heads that have them, and the length of "
                    f"panoptic_head.loss_cls.class_weight to {sum(counts) + 1}"
                )
    if is_kind_of(dataset, "CocoPanopticDataset"):
        yield from find_order_problems(dataset, split, counts[0])


def find_order_problems(dataset, split: str, things: int) -> Iterator[Problem]:
    """Yield a problem if a stuff class precedes a thing class, or ``thing_classes`` does not fit the file."""
    content = load_coco(dataset.ann_file)
    if content is None:
        return
    is_thing = {category["id"]: category.get("isthing", 1) for category in content.get("categories") or ()}
    names = {category["id"]: category["name"] for category in content.get("categories") or ()}
    labels = [category for category in sorted(dataset.cat2label, key=dataset.cat2label.get) if category in is_thing]
    late = [names[category] for category in labels[things:] if is_thing[category]]
    if late:
        yield Problem(
            f"{dataset.ann_file} lists the thing classes {join_names(late)} after stuff, but labels below "
            "num_things_classes are things. Sort 'categories' and metainfo.classes so that all things come first"
        )
    named = dataset.metainfo.get("thing_classes")
    if named is not None:
        classes = dataset.metainfo["classes"]
        in_file = {names[category] for category in labels if is_thing[category]}
        wrong = [name for name in classes if (name in named) != (name in in_file)]
        if wrong:
            yield Problem(
                f"metainfo.thing_classes of the {split} data set and 'isthing' in {dataset.ann_file} do not agree "
                f"about {join_names(wrong)}. Set thing_classes and stuff_classes in metainfo beside classes"
            )


def find_setting_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a problem for each ``loss_cls.class_weight`` without one weight per class and one more."""
    for path, node in iter_named_dicts(cfg.model, "model"):
        loss = node.get("loss_cls")
        weights = loss.get("class_weight") if isinstance(loss, dict) else None
        if not isinstance(weights, (list, tuple)):
            continue
        if "num_things_classes" in node or "num_stuff_classes" in node:
            keys = f"num_things_classes + num_stuff_classes of {path}"
            count = node.get("num_things_classes", 80) + node.get("num_stuff_classes", 53)
        elif get_type_name(node) in ("MaskFormerHead", "Mask2FormerHead") and isinstance(node.get("num_classes"), int):
            keys, count = f"{path}.num_classes", node["num_classes"]
        else:
            continue
        if len(weights) != count + 1:
            yield Problem(
                f"{path}.loss_cls.class_weight has {len(weights)} weights, but {keys} is {count}, and 'no object' "
                f"needs one more. Set it to [1.0] * {count} + [0.1]"
            )
