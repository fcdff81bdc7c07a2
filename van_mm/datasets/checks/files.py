"""Check that the folders, the annotation files and the images of data sets exist."""

import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

from van_mm.datasets.checks.annotations import spread_indices
from van_mm.datasets.checks.problem import Problem
from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS
from van_mm.utils.config_walk import get_type_name, iter_dicts
from van_mm.utils.errors import UserError

MAX_FILES = 1000  # largest number of samples whose files are looked for at the start of a run (our choice)
DOWNLOADED_TYPES = {"CIFAR10", "CIFAR100", "MNIST", "FashionMNIST"}


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


def check_dataset_settings(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check the types of ``ann_file`` and ``classes`` of the data sets, with or without a ``data_root``.

    Args:
        cfg (Config): Config of an experiment.
        splits (tuple[str]): The splits to check, any of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: If ``ann_file`` is a list, or ``classes`` is a string that names no file.
    """
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        for node in iter_dicts(loader.dataset) if loader else ():
            files = node.get("ann_file")
            if isinstance(files, (list, tuple)):
                raise UserError(
                    f"ann_file of the {split} data set is a list, {list(files)}, but a data set reads one file. Use "
                    "one data set for each file: dict(type='ConcatDataset', datasets=[dict(type="
                    f"'{get_type_name(node)}', ann_file=..., ...), ...])"
                )
            classes = node.get("classes")  # of metainfo, or of a data set of mmpretrain
            if isinstance(classes, str) and "://" not in classes and not Path(classes).expanduser().is_file():
                raise UserError(
                    f"classes of the {split} data set is the string '{classes}', of which each letter would be a "
                    f"class. Write a tuple, classes=('{classes}',) with a comma, or the path of a text file with a "
                    "name a line"
                )


def needs_prefix(dataset: ConfigDict, key: str) -> bool:
    """Return whether a data set reads the folder of one key of its ``data_prefix``.

    Configs of instance segmentation that inherit from panoptic ones keep the folder of label maps, which is not read.
    """
    if key != "seg" or get_type_name(dataset) != "CocoDataset":
        return True
    steps = iter_dicts(dataset.get("pipeline"))
    return any(step.get("with_seg") or "Panoptic" in get_type_name(step) for step in steps)


def is_remote(path) -> bool:
    """Return whether a path is one of a file backend that is not the local disk, such as ``s3://bucket/images``."""
    return "://" in str(path)


def reads_remotely(node: dict) -> bool:
    """Return whether a data set or a transform reads its files by another backend than the local disk, as LMDB."""
    options = [node.get(key) for key in ("backend_args", "file_client_args")]
    return any(one and one.get("backend", "local") not in ("local", "disk") for one in options)


def check_data_files(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that every folder and annotation file of the data sets exists.

    Args:
        cfg (Config): Config of an experiment.
        splits (tuple[str]): The splits to check, any of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: If a folder or file is missing. The message shows the expected layout.
    """
    check_dataset_settings(cfg, splits)
    expected: dict[Path, None] = {}
    for dataset in find_dataset_cfgs(cfg, splits):
        if is_remote(dataset.data_root) or reads_remotely(dataset):
            continue
        root = Path(dataset.data_root)
        prefixes = dataset.get("data_prefix")
        if isinstance(prefixes, dict):
            prefixes = {key: prefix for key, prefix in prefixes.items() if needs_prefix(dataset, key)}
        name = get_type_name(dataset)
        if name in DOWNLOADED_TYPES and dataset.get("download", True):
            continue  # their constructors download what is missing
        if name.startswith("ImageNet"):  # of other data sets, ``split`` is no folder
            prefixes = prefixes or dataset.get("split")
        prefixes = prefixes or ""
        if name.endswith("CUB"):
            prefixes = "images"
        if name.endswith("SaliencyDataset"):
            saliency_layout = SALIENCY_LAYOUTS.get(dataset.subset)
            prefixes = dataset.get("data_prefix") or (saliency_layout.prefixes if saliency_layout else "")
        if any(reads_remotely(step) for step in iter_dicts(dataset.get("pipeline"))):
            prefixes = {}  # only the annotations are local
        for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
            if not is_remote(prefix):
                expected[root / prefix] = None
        for file in (dataset.get("ann_file"), dataset.get("bbox_file")):
            if file and not is_remote(file):
                expected[Path(file) if str(file).startswith(str(root)) else root / file] = None
    missing = [path for path in expected if not path.exists()]
    if missing:
        layout = "\n".join(f"  {path}{'   (missing)' if path in missing else ''}" for path in expected)
        hint = explain_backslashes(missing[0])
        raise UserError(
            f"the data set is not complete: {missing[0]} does not exist.{hint} This config expects, below "
            f"{Path.cwd()}:\n{layout}\nMove or link the data there, set another data_root with --cfg-options, or try "
            "--demo, which needs no download."
        )


def explain_backslashes(path) -> str:
    """Return a sentence about the backslashes in a path, or nothing."""
    if os.sep != "/" or "\\" not in str(path):
        return ""
    return " Its path has backslashes, which separate no folders here: write forward slashes."


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if images or label maps of a data set do not exist.

    Training leaves out a few such samples (``--max-bad-data``). Validation and testing end at the first one.
    """
    loader = cfg.get(f"{split}_dataloader") or {}
    if any(map(reads_remotely, iter_dicts(loader.get("dataset")))):
        return
    from van_mm.datasets.checks import det_maps, segmentation  # they import PyTorch

    reads_maps = segmentation.get_map_loader(dataset) or det_maps.get_map_loader(dataset)
    for key, kind in (("img_path", "images"), *([("seg_map_path", "label maps")] if reads_maps else ())):
        paths = {dataset.get_data_info(int(index)).get(key) for index in spread_indices(len(dataset), MAX_FILES)}
        paths = sorted(path for path in paths if isinstance(path, str) and not is_remote(path))
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            total = len(paths) if len(dataset) <= MAX_FILES else f"{len(paths)} (a sample)"
            yield Problem(
                f"{len(missing)} of {total} {kind} of the {split} data set do not exist, for instance {missing[0]}."
                f"{explain_backslashes(missing[0])} Correct data_root, data_prefix or the names in ann_file, or add "
                "the files",
                is_error=split != "train" or len(missing) == len(paths),
            )
