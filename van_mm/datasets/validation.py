"""Check the files of data sets, their classes against the model, and every single sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.fileio import load
from PIL import Image

from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS
from van_mm.utils.config_walk import iter_dicts
from van_mm.utils.errors import UserError, format_error, wrap_build_errors


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


def find_sample_problems(dataset, index: int) -> tuple[str, list[str]]:
    """Return all problems of one sample: of its image, boxes, labels, segmentation map and keypoints.

    Args:
        dataset (BaseDataset): A data set whose pipeline only loads the image and the annotations.
        index (int): Index of the sample.

    Returns:
        tuple[str, list[str]]: The image file, and one message per problem. Sizes in messages are height x width.
    """
    info = dataset.get_data_info(index)
    file = str(info.get("img_path", index))
    image_problem, size = find_image_problem(file)
    if image_problem:
        return file, [image_problem]
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
        check_labels(labels, "label", 255)  # 255 is the label that losses ignore
    if "keypoints" in sample:
        points, visible = np.asarray(sample["keypoints"])[..., :2], np.asarray(sample["keypoints_visible"])
        visible = (visible[..., 0] if visible.ndim == points.ndim else visible) > 0
        if not np.isfinite(points).all():
            problems.append("a keypoint has coordinates that are not finite")
        elif ((points[visible] < -1) | (points[visible] > np.array([width, height]) + 1)).any():
            problems.append(f"a keypoint beyond the image of {height} x {width} is marked as visible")
    return file, problems


def find_dataset_cfgs(cfg: Config, splits: tuple[str, ...]) -> list[ConfigDict]:
    """Return the configs of the data sets of these splits, without wrappers such as ``RepeatDataset``.

    Args:
        cfg (Config): Config of an experiment.
        splits (tuple[str]): Any of ``'train'``, ``'val'`` and ``'test'``.

    Returns:
        list[ConfigDict]: Every dict of the data loaders' data sets that has a ``data_root``.
    """
    loaders = [cfg.get(f"{split}_dataloader") for split in splits]
    return [node for loader in loaders if loader for node in iter_dicts(loader.dataset) if "data_root" in node]


def check_data_files(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that every folder and annotation file of the data sets exists.

    Args:
        cfg (Config): Config of an experiment.
        splits (tuple[str]): The splits to check, any of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: If a folder or file is missing. The message shows the expected layout.
    """
    expected: dict[Path, None] = {}
    for dataset in find_dataset_cfgs(cfg, splits):
        root = Path(dataset.data_root)
        prefixes = dataset.get("data_prefix") or dataset.get("split") or ""
        if dataset.type.endswith("CUB"):
            prefixes = "images"
        if dataset.type.endswith("SaliencyDataset"):
            saliency_layout = SALIENCY_LAYOUTS.get(dataset.subset)
            prefixes = dataset.get("data_prefix") or (saliency_layout.prefixes if saliency_layout else "")
        for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
            expected[root / prefix] = None
        for file in (dataset.get("ann_file"), dataset.get("bbox_file")):
            if file:
                expected[Path(file) if str(file).startswith(str(root)) else root / file] = None
    missing = [path for path in expected if not path.exists()]
    if missing:
        layout = "\n".join(f"  {path}{'   (missing)' if path in missing else ''}" for path in expected)
        raise UserError(
            f"the data set is not complete: {missing[0]} does not exist. This config expects, below "
            f"{Path.cwd()}:\n{layout}\nMove or link the data there, set another data_root with --cfg-options, or try "
            "--demo, which needs no download."
        )


NO_SAMPLE_MESSAGE = (
    "the {} data set has no sample: its folder or annotation file is empty, its filter_cfg drops every image, or no "
    "class of metainfo occurs in it. Check data_root, ann_file, filter_cfg and metainfo"
)
HEAD_KEYS = {"head", "bbox_head", "mask_head", "decode_head", "auxiliary_head", "roi_head", "panoptic_head"}


@contextmanager
def wrap_dataset_errors(split: str, cfg: ConfigDict) -> Iterator[None]:
    """Turn any error of a data set's constructor into a :class:`UserError`.

    Args:
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        cfg (ConfigDict): Config of the data set. The message names its ``data_root`` and ``ann_file``.
    """
    paths = ", ".join(str(cfg[key]) for key in ("data_root", "ann_file") if cfg.get(key))
    try:
        with wrap_build_errors(f"the {split} data set" + (f" ({paths})" if paths else "")):
            yield
    except UserError as error:
        if "need at least one array" in str(error):  # NumPy's error for a data set of mmengine without samples
            raise UserError(NO_SAMPLE_MESSAGE.format(split)) from error
        raise


def check_dataset_classes(cfg: Config, dataset, split: str) -> None:
    """Check that a data set has samples, and that its classes match its annotation file and the model's heads.

    Args:
        cfg (Config): Config of the experiment.
        dataset (BaseDataset): The data set.
        split (str): ``'train'``, ``'val'`` or ``'test'``, for the messages.

    Raises:
        UserError: If the data set has no sample, if the annotation file lacks one of its classes, or if a head of the
            model has fewer classes than the data set.
    """
    if not len(dataset):
        raise UserError(NO_SAMPLE_MESSAGE.format(split))
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    ids = getattr(dataset, "cat_ids", None)
    if ids is not None and len(ids) < len(classes):
        categories = {category["name"] for category in load(dataset.ann_file)["categories"]}
        missing = [name for name in classes if name not in categories]
        raise UserError(
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
            raise UserError(
                f"{key} is {num_classes}, but the {split} data set has {len(classes)} classes. Set {key} to "
                f"{len(classes)}, or list fewer classes in dataset.metainfo.classes"
            )
