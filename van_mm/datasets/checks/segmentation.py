"""Check the label maps of semantic segmentation and saliency."""

from collections.abc import Iterator

from mmengine.config import Config

from van_mm.datasets.checks.problem import Problem


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield the problems of a data set with label maps."""
    yield from ()
