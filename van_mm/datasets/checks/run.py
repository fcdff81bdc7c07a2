"""Run all checks of the data sets of a run, at the start of a training and in tools/misc/check_dataset.py."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.config import Config, ConfigDict

from van_mm.datasets.bad_samples import iter_innermost_datasets
from van_mm.datasets.checks import (
    boxes,
    classes,
    classification,
    coco,
    det_maps,
    evaluators,
    files,
    images,
    keypoints,
    panoptic,
    pipelines,
    run_length,
    segmentation,
    settings,
)
from van_mm.datasets.checks.annotations import load_annotations
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.errors import UserError, wrap_build_errors

# Each function yields the problems of one data set that is no wrapper. They read annotation files, the headers of at
# most a sample of the images, and three whole samples, so that they take seconds.
DATASET_CHECKS: tuple[Callable[[Config, object, str], Iterator[Problem]], ...] = (
    classes.find_problems,
    coco.find_problems,
    boxes.find_problems,
    keypoints.find_problems,
    panoptic.find_problems,
    files.find_problems,
    images.find_problems,
    segmentation.find_problems,
    det_maps.find_problems,
    classification.find_problems,
    pipelines.find_problems,
)
# Each function yields the problems of the config alone, or of several data sets together.
RUN_CHECKS: tuple[Callable[[Config, dict[str, object]], Iterator[Problem]], ...] = (
    settings.find_problems,
    run_length.find_problems,
    classes.find_split_problems,
    panoptic.find_setting_problems,
    segmentation.find_setting_problems,
    classification.find_setting_problems,
    pipelines.find_tta_problems,
    evaluators.find_problems,
)
NO_SAMPLE_MESSAGE = (
    "the {} data set has no sample: its folder or annotation file is empty, its filter_cfg drops every image, or no "
    "class of metainfo occurs in it. Check data_root, ann_file, filter_cfg and metainfo"
)


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
        if cause := coco.explain_build_error(cfg, error.__cause__):
            raise UserError(f"the {split} data set does not build: {cause}") from error
        if "need at least one array" in str(error):  # NumPy's error for a data set of mmengine without samples
            raise UserError(NO_SAMPLE_MESSAGE.format(split)) from error
        raise


def find_run_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield what is wrong with the data sets of a run, and with the settings that have to match them.

    Args:
        cfg (Config): Config of the experiment.
        datasets (dict[str, Dataset]): The built data sets by split, of ``'train'``, ``'val'`` and ``'test'``. They may
            be wrappers: every data set inside them is checked.

    Yields:
        Problem: Each problem once, in the order of the splits.
    """
    load_annotations.cache_clear()  # a file may have changed since an earlier call
    found = set()
    for problem in iter_problems(cfg, datasets):
        if problem.message not in found:
            found.add(problem.message)
            yield problem
    load_annotations.cache_clear()  # the files of large data sets take gigabytes


def iter_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield the problems of :func:`find_run_problems`, those of several data sets as often as they occur."""
    distinct = {}
    for split, dataset in datasets.items():
        distinct.setdefault(id(dataset), (split, dataset))  # validation and test may share one
    for split, dataset in distinct.values():
        if not len(dataset):
            yield Problem(NO_SAMPLE_MESSAGE.format(split))
            continue
        for part in iter_innermost_datasets(dataset):
            for find_problems in DATASET_CHECKS:
                yield from find_problems(cfg, part, split)
    for find_problems in RUN_CHECKS:
        yield from find_problems(cfg, datasets)


def check_run(cfg: Config, datasets: dict[str, object]) -> None:
    """Print the warnings of :func:`find_run_problems`, and raise if there is an error.

    Raises:
        UserError: If a problem is an error. The message is that of the first error.
    """
    for problem in find_run_problems(cfg, datasets):
        if problem.is_error:
            raise UserError(problem.message)
        print(f"warning: {problem.message}", flush=True)
