"""Check the label maps that mmdet reads beside boxes: those of semantic heads, and those of panoptic segments."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import mmcv
import numpy as np
from mmengine.config import Config

from van_mm.datasets.checks.annotations import is_kind_of, join_names, spread_indices
from van_mm.datasets.checks.classes import get_classes
from van_mm.datasets.checks.panoptic import iter_named_dicts
from van_mm.datasets.checks.problem import Problem
from van_mm.datasets.checks.segmentation import (
    DEFAULT_IGNORED,
    MAX_HEADERS,
    MAX_MAPS,
    MAX_SECONDS,
    describe_wrong_map,
    find_padding_problems,
    get_map_paths,
    read_map,
)

LOADING_MODULE = "mmdet.datasets.transforms.loading"


def get_map_loader(dataset):
    """Return mmdet's transform that loads the label maps of a data set, or None if none does."""
    for transform in getattr(getattr(dataset, "pipeline", None), "transforms", ()):
        if type(transform).__module__ == LOADING_MODULE and getattr(transform, "with_seg", False):
            return transform
    return None


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield the problems of a data set with label maps: their channels, their values, and ids that do not occur."""
    loader = get_map_loader(dataset)
    if loader is None:
        return
    if is_kind_of(dataset, "CocoPanopticDataset"):
        yield from find_segment_problems(dataset, split)
        return
    key, count, ignored = get_label_range(cfg, dataset)
    if count is None:
        return
    wrong, found = [], {}
    for path, raw in iter_maps(dataset, partial(read_map, loader=loader)):
        if raw.ndim > 2:
            wrong.append((path, describe_wrong_map(raw, path, loader.imdecode_backend)))
        else:
            found |= {label: path for label in get_labels(raw, loader, dataset) if label not in found}
    if wrong:
        yield Problem(
            f"{len(wrong)} label maps of the {split} data set can't be used, for instance {wrong[0][0]}, which "
            f"{wrong[0][1]}"
        )
    beyond = sorted(label for label in found if not (0 <= label < count or label == ignored))
    if beyond:
        yield Problem(
            f"label maps of the {split} data set have the labels {join_names(beyond)}, for instance "
            f"{found[beyond[0]]}, but {key} is {count} and the ignored label {ignored}. Number the labels from 0, or "
            f"correct {key}",
            is_error=split == "train",
        )
    elif found and set(found) <= {ignored}:
        yield Problem(
            f"all pixels of the label maps of the {split} data set are {ignored}, which is ignored. Save label maps "
            f"with labels from 0 to {count - 1}",
            is_error=split == "train",
        )
    preprocessor = cfg.model.get("data_preprocessor") or {}
    if split == "train" and preprocessor.get("pad_seg"):
        padding = {"data_preprocessor.seg_pad_value": preprocessor.get("seg_pad_value", DEFAULT_IGNORED)}
        yield from find_padding_problems(padding, ignored, count)


def get_label_range(cfg: Config, dataset) -> tuple[str, int | None, int]:
    """Return the setting that limits the labels of label maps, its value, and the ignored label."""
    for path, node in iter_named_dicts(cfg.model, "model"):
        if path.endswith("semantic_head") and isinstance(node.get("num_classes"), int):
            loss = node.get("loss_seg") or {}
            ignored = node.get("ignore_label") or loss.get("ignore_index", DEFAULT_IGNORED)
            return f"{path}.num_classes", node["num_classes"], ignored
    if is_kind_of(dataset, "BaseSegDataset"):
        return "the number of classes", len(get_classes(dataset)) or None, DEFAULT_IGNORED
    return "", None, DEFAULT_IGNORED


def iter_maps(dataset, read: Callable[[str], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the path and the values of a sample of label maps, for at most :data:`MAX_SECONDS`."""
    end = time.monotonic() + MAX_SECONDS
    for path in get_map_paths(dataset)[:MAX_MAPS]:
        try:
            yield path, read(path)
        except Exception:  # files that can't be read are left to the checks of single samples
            continue
        if time.monotonic() > end:
            return


def get_labels(raw: np.ndarray, loader, dataset) -> list[int]:
    """Return the labels that training sees of a label map."""
    labels = np.unique(raw).astype(int)
    if loader.reduce_zero_label:
        labels = np.where(np.isin(labels, (0, loader.ignore_index)), loader.ignore_index, labels - 1)
    label_map = getattr(dataset, "label_map", None) or {}
    return [int(label_map.get(label, label)) for label in labels.tolist()]


def find_segment_problems(dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if panoptic label maps do not contain the ids of their segments."""
    segments = {}
    for index in spread_indices(len(dataset), MAX_HEADERS):  # the maps of get_map_paths
        info = dataset.get_data_info(int(index))
        segments[info.get("seg_map_path")] = [segment["id"] for segment in info.get("segments_info") or ()]
    missing, total = [], 0
    for path, colors in iter_maps(dataset, partial(mmcv.imread, flag="color", channel_order="rgb")):
        ids = np.unique(colors.astype(np.int64) @ (1, 256, 256**2))
        missing += [(number, path) for number in segments[path] if number not in ids]
        total += len(segments[path])
    if missing:
        number, path = missing[0]
        yield Problem(
            f"{len(missing)} of {total} segments of the {split} data set do not occur in their label map, for instance "
            f"{number} in {path}. Save label maps with the id of each segment as the color: red + 256 * green + "
            "256 * 256 * blue",
            is_error=len(missing) == total,
        )
