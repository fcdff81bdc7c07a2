"""Leave out training samples that cannot be read or used, up to a limit."""

import json
from collections.abc import Iterator
from pathlib import Path

from mmengine.dataset import Compose

from van_mm.utils.errors import UserError, format_error

MAX_LISTED_SAMPLES = 20  # largest number of bad samples in a message (our choice)
MIN_COMMON_ERRORS = 3  # so many samples with the same error point at the pipeline (our choice)
BAD_SAMPLES_LOG = "bad_data.jsonl"


class TransformFailed(Exception):
    """Raised when a transform fails. Its arguments are the class name of the transform and the error in one line."""


class TriedPipeline(Compose):
    """A data set's pipeline that names the transform that fails.

    Args:
        pipeline (Compose): The pipeline of the data set.

    Raises:
        TransformFailed: When a transform fails.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> dict | None:
        for transform in self.transforms:
            try:
                data = transform(data)
            except Exception as error:
                raise TransformFailed(type(transform).__name__, format_error(error)) from error
            if data is None:
                return None
        return data


class SkipBadSamples(TriedPipeline):
    """A data set's pipeline that returns None for samples that cannot be read or used.

    mmengine's data sets then return another sample instead. The file and the error of each bad sample are appended to a
    log, which all ranks and all workers of the data loaders share.

    Args:
        pipeline (Compose): The pipeline of the data set.
        log (Path): File with one JSON object per line.
        limit (int, optional): Largest number of distinct bad samples. With None, the first bad sample ends the run.

    Raises:
        UserError: When the number of bad samples exceeds the limit. The message lists them.
    """

    def __init__(self, pipeline: Compose, log: Path, limit: int | None) -> None:
        super().__init__(pipeline)
        self.log, self.limit = log, limit

    def __call__(self, data: dict) -> dict | None:
        name = str(data.get("img_path", data.get("sample_idx")))
        try:
            return super().__call__(data)
        except TransformFailed as failure:
            transform, problem = failure.args
            return self.skip(name, problem, transform)

    def skip(self, name: str, problem: str, transform: str = "") -> None:
        """Log a bad sample, and raise if there are more than the limit allows."""
        with self.log.open("a") as file:
            file.write(json.dumps(dict(file=name, error=problem, transform=transform)) + "\n")
        lines = list(map(json.loads, self.log.read_text().splitlines()))
        errors = {line["file"]: line["error"] for line in lines}
        if self.limit is None or len(errors) > self.limit:
            listing = "\n".join(f"  {file}: {error}" for file, error in list(errors.items())[:MAX_LISTED_SAMPLES])
            allowance = "" if self.limit is None else f", and {self.limit} may be (--max-bad-data)"
            raise UserError(
                f"{len(errors)} samples of the data set can't be used{allowance}:\n{listing}\n{self.log} lists all "
                f"that were found so far. {self.name_common_cause(lines)}Run tools/misc/check_dataset.py to check "
                "every sample"
            )
        print(f"left out, {len(errors)} of at most {self.limit}: {name}: {problem}", flush=True)

    @staticmethod
    def name_common_cause(lines: list[dict]) -> str:
        """Return a sentence that names the transform if all of several samples have the same error, or nothing."""
        causes = {(line.get("transform"), line["error"]) for line in lines}
        if len({line["file"] for line in lines}) < MIN_COMMON_ERRORS or len(causes) > 1:
            return ""
        return f"All have the same error of {causes.pop()[0]}: check the options of this transform first. "


def iter_datasets(dataset) -> Iterator:
    """Yield a data set and all data sets that it wraps or concatenates, at any depth."""
    yield dataset
    for child in [*([dataset.dataset] if hasattr(dataset, "dataset") else []), *getattr(dataset, "datasets", [])]:
        yield from iter_datasets(child)


def iter_innermost_datasets(dataset) -> Iterator:
    """Yield the data sets of :func:`iter_datasets` that are no wrappers, which hold the samples."""
    for part in iter_datasets(dataset):
        if not (hasattr(part, "dataset") or hasattr(part, "datasets")):
            yield part


def skip_bad_samples(dataset, log: Path, fraction: float | None) -> None:
    """Replace the pipelines of a data set, and of all data sets inside it, by :class:`SkipBadSamples`.

    Args:
        dataset (Dataset): A data set of mmengine or of a codebase. It is changed in place.
        log (Path): File that the bad samples are appended to, with one JSON object per line.
        fraction (float, optional): Largest share of bad samples, 0 to 1. With None, the first bad sample ends the run.
    """
    limit = None if fraction is None else int(fraction * len(dataset))
    for part in iter_datasets(dataset):
        if isinstance(pipeline := getattr(part, "pipeline", None), Compose):
            part.pipeline = SkipBadSamples(pipeline, log, limit)
