"""Check settings of a config that have to match each other or the data sets."""

from collections.abc import Iterator

from mmengine.config import Config

from van_mm.datasets.checks.problem import Problem


def find_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield the problems of the model's, the pipelines' and the evaluators' settings."""
    yield from ()
