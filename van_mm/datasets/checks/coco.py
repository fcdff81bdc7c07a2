"""Check COCO annotation files of boxes, masks, panoptic segments and keypoints."""

from collections.abc import Iterator

from mmengine.config import Config

from van_mm.datasets.checks.problem import Problem


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield the problems of a data set that reads a COCO annotation file."""
    yield from ()


def find_split_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a problem for each evaluator that reads another annotation file than its data set."""
    yield from ()
