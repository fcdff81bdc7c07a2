"""What the checks share: annotation files, each read once, the data sets and pipelines that use them, and samples."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.fileio import load

from van_mm.utils.config_walk import iter_dicts


@lru_cache(maxsize=4)
def load_annotations(path: str) -> dict | list:
    """Return the content of a JSON or YAML file. Callers do not change it."""
    return load(path)


def load_coco(path: str) -> dict | None:
    """Return the content of a file in COCO format, or None if the file has another format."""
    if not isinstance(path, str) or not path.endswith(".json") or not Path(path).is_file():
        return None
    content = load_annotations(path)
    return content if isinstance(content, dict) and isinstance(content.get("images"), list) else None


def get_annotations(content: dict) -> list[dict]:
    """Return the annotations of objects or of persons, or the segments of panoptic segmentation with their image."""
    annotations = content.get("annotations") or []
    if annotations and "segments_info" in annotations[0]:
        return [
            dict(segment, image_id=image.get("image_id"))
            for image in annotations
            for segment in image.get("segments_info", ())
        ]
    return annotations


def is_kind_of(dataset, *names: str) -> bool:
    """Return whether a class of one of these names is the data set's class or a base of it."""
    return any(kind.__name__ in names for kind in type(dataset).__mro__)


def has_pipeline_setting(cfg: Config, split: str, key: str) -> bool:
    """Return whether a transform of a split's data sets has a setting, such as ``with_mask``, and it is true."""
    loader = cfg.get(f"{split}_dataloader")
    return bool(loader) and any(node.get(key) for node in iter_dicts(loader.get("dataset")))


def spread_indices(number: int, limit: int) -> np.ndarray:
    """Return the indices of at most ``limit`` evenly spaced samples of ``number``."""
    return np.unique(np.linspace(0, number - 1, min(number, limit)).astype(int))


def join_names(names, limit: int = 10) -> str:
    """Return the first names, separated by commas."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
