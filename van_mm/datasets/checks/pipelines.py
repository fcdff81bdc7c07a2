"""Try the pipelines on a few samples, because an error in all of them is the pipeline's and not the data's."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS

from van_mm.datasets.bad_samples import TransformFailed, TriedPipeline, iter_datasets
from van_mm.datasets.checks.problem import Problem
from van_mm.datasets.checks.samples import find_image_problem
from van_mm.datasets.checks.segmentation import get_map_loader
from van_mm.utils.config_walk import iter_dicts
from van_mm.utils.errors import format_error
from van_mm.utils.random_state import keep_random_state

NUM_TRIED = 3  # our choice


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if a transform fails with the same error on each of a few samples whose files can be read."""
    pipeline = getattr(dataset, "pipeline", None)
    if not isinstance(pipeline, Compose) or not hasattr(dataset, "prepare_data") or len(dataset) < 2:
        return
    number = min(NUM_TRIED, len(dataset))
    indices = [round(i * (len(dataset) - 1) / (number - 1)) for i in range(number)]
    dataset.pipeline, failures = TriedPipeline(pipeline), set()
    try:
        with keep_random_state():
            for index in indices:
                try:
                    dataset.prepare_data(index)
                except TransformFailed as failure:
                    if not has_readable_files(dataset.get_data_info(index)):
                        return
                    failures.add(failure.args)
                else:
                    return  # at the first sample of a healthy data set
    except Exception:  # of the data set itself, which the run reports for each sample
        return
    finally:
        dataset.pipeline = pipeline
    if len(failures) == 1:
        transform, error = failures.pop()
        yield Problem(
            f"the transform {transform} of the {split} pipeline fails on each of {number} samples with the same error: "
            f"{error}. Check its options, and those of the transforms before it"
        )


def has_readable_files(info: dict) -> bool:
    """Return whether the image and the label map of a sample, if they are files, can be decoded."""
    files = [value for key, value in info.items() if key.endswith("_path") and isinstance(value, str)]
    return all(Path(file).is_file() and find_image_problem(file)[0] is None for file in files)


def find_tta_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a warning if ``tta_pipeline`` does not build or has another ``reduce_zero_label`` than a data set."""
    pipeline = cfg.get("tta_pipeline")
    if not pipeline:
        return
    try:
        for step in pipeline:
            TRANSFORMS.build(step)
    except Exception as error:
        problem = format_error(error).partition(". ")[0]
        yield Problem(
            f"tta_pipeline does not build: {problem}. Correct or remove it; only --tta uses it", is_error=False
        )
        return
    values = {node["reduce_zero_label"] for node in iter_dicts(pipeline) if node.get("reduce_zero_label") is not None}
    for split, dataset in datasets.items():
        expected = {
            part.reduce_zero_label
            for part in iter_datasets(dataset)
            if get_map_loader(part) and hasattr(part, "reduce_zero_label")
        }
        if split != "train" and expected and values - expected:
            yield Problem(
                f"LoadAnnotations of tta_pipeline has reduce_zero_label={values.pop()}, but the {split} data set has "
                f"{expected.pop()}, so that --tta fails. Remove reduce_zero_label from tta_pipeline",
                is_error=False,
            )
            return
