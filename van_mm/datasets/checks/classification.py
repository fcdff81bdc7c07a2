"""Check the data sets of image classification, and the settings that depend on the number of classes."""

from collections.abc import Iterator

import numpy as np
from mmengine.config import Config

from van_mm.datasets.checks.annotations import spread_indices
from van_mm.datasets.checks.classes import get_classes, iter_heads
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import get_type_name, iter_dicts

MAX_LABELS = 10000  # largest number of samples whose label is read (our choice)


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if an image has a label beyond the classes of the data set or of the head."""
    if cfg.get("default_scope") != "mmpretrain":
        return
    heads = [("model.head", head["num_classes"]) for path, head in iter_heads(cfg.model) if path == "model.head"]
    limits = [("metainfo.classes", len(get_classes(dataset)))] if get_classes(dataset) else heads
    indices = spread_indices(len(dataset), MAX_LABELS)
    for name, limit in limits:
        for index in indices:
            info = dataset.get_data_info(int(index))
            label = info.get("gt_label")
            if label is None or not np.size(label):
                continue
            largest, smallest = int(np.max(label)), int(np.min(label))
            if largest >= limit or smallest < 0:
                what = "classes" if name == "metainfo.classes" else f"classes in {name}.num_classes"
                yield Problem(
                    f"{info.get('img_path', f'image {index}')} of the {split} data set has the label "
                    f"{largest if largest >= limit else smallest}, but there are {limit} {what}, from 0. Number the "
                    f"labels from 0, and set {name} to all of them"
                )
                return


def find_setting_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a problem for each setting that does not fit the number of classes of a classifier's head."""
    heads = [(path, head) for path, head in iter_heads(cfg.model) if path == "model.head"]
    if cfg.get("default_scope") != "mmpretrain" or not heads:
        return
    path, head = heads[0]
    num_classes = head["num_classes"]
    if "train" in datasets:
        if head.get("cal_acc"):
            yield from find_topk_problems(head.get("topk", (1,)), f"{path}.topk", num_classes)
        yield from find_count_problems(cfg, head, num_classes)
    for split in ("val", "test"):
        for metric in iter_dicts(cfg.get(f"{split}_evaluator")) if split in datasets else ():
            if get_type_name(metric) == "Accuracy":
                yield from find_topk_problems(metric.get("topk", (1,)), f"{split}_evaluator.topk", num_classes)


def find_topk_problems(topk, key: str, num_classes: int) -> Iterator[Problem]:
    """Yield a problem if an accuracy looks at more classes than the head has."""
    topk = [topk] if isinstance(topk, int) else list(topk)
    if max(topk, default=1) > num_classes:
        remedy = ", ".join(map(str, [k for k in topk if k <= num_classes] or [1]))
        yield Problem(
            f"{key} asks for the top-{max(topk)} accuracy, but model.head has {num_classes} classes. Set {key} to "
            f"({remedy}{',' if ', ' not in remedy else ''})"
        )


def find_count_problems(cfg: Config, head: dict, num_classes: int) -> Iterator[Problem]:
    """Yield a problem if soft labels or a loss are made for another number of classes than the head has."""
    preprocessor = {**(cfg.get("data_preprocessor") or {}), **(cfg.model.get("data_preprocessor") or {})}
    augments = (cfg.model.get("train_cfg") or {}).get("augments") or preprocessor.get("batch_augments")
    found = preprocessor.get("num_classes")
    if (augments or preprocessor.get("to_onehot")) and found is not None and found != num_classes:
        kinds = [get_type_name(node) for node in iter_dicts(augments) if "type" in node] if augments else ["to_onehot"]
        yield Problem(
            f"data_preprocessor.num_classes is {found}, but model.head.num_classes is {num_classes}: the soft labels "
            f"of {', '.join(kinds)} would have another shape than the scores. Set data_preprocessor.num_classes="
            f"{num_classes}"
        )
    losses = head.get("loss") or ()
    for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
        if loss.get("num_classes") not in (None, num_classes):
            yield Problem(
                f"model.head.loss.num_classes is {loss['num_classes']}, but model.head.num_classes is {num_classes}. "
                "Set both to the number of classes"
            )
        weights = loss.get("class_weight")
        if isinstance(weights, (list, tuple)) and len(weights) != num_classes:
            yield Problem(
                f"model.head.loss.class_weight has {len(weights)} entries, but model.head.num_classes is "
                f"{num_classes}. Give one weight for each class"
            )
