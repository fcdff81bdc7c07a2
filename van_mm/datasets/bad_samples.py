"""Leave out training samples that cannot be read or used, up to a limit."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from mmengine.dataset import Compose
from mmengine.dist import get_rank

from van_mm.utils.errors import UserError, format_error

MAX_LISTED_SAMPLES = 20  # largest number of bad samples in a message (our choice)
MIN_COMMON_ERRORS = 3  # so many samples with the same error point at the pipeline (our choice)
BAD_SAMPLES_LOG = Path("bad_data.jsonl")


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


class BadSampleLog:
    """The bad samples that all processes of a run have found, with a file of JSON lines for each rank.

    Each line is read once. Incomplete lines of other processes are read when they are complete, and lines that are not
    valid are ignored.

    Args:
        file (Path): The file of this rank, to which its processes append. Ranks have files of their own because several
            machines cannot append to a file on a network drive.

    Attributes:
        samples (dict[str, tuple[str, str]]): Error and transform of each bad sample.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.samples = file, {}
        self.positions = {}  # how far each file has been read

    def add(self, name: str, error: str, transform: str) -> None:
        """Append a bad sample."""
        line = json.dumps(dict(file=name, error=error, transform=transform)) + "\n"
        with self.file.open("ab", buffering=0) as file:  # one write, which no other process can interrupt
            file.write(line.encode())
        self.samples[name] = error, transform

    def read(self) -> None:
        """Read what was appended to the files of all ranks since the last time."""
        for path in self.file.parent.glob(f"{BAD_SAMPLES_LOG.stem}*{BAD_SAMPLES_LOG.suffix}"):
            with path.open("rb") as file:
                file.seek(self.positions.get(path, 0))
                lines, _, rest = file.read().rpartition(b"\n")
                self.positions[path] = file.tell() - len(rest)
            for line in lines.splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    sample = json.loads(line)
                    self.samples.setdefault(sample["file"], (sample["error"], sample.get("transform", "")))


class SkipBadSamples(TriedPipeline):
    """A data set's pipeline that returns None for samples that cannot be read or used.

    mmengine's data sets then return another sample instead. The file and the error of each bad sample are logged once.

    Args:
        pipeline (Compose): The pipeline of the data set.
        log (BadSampleLog): The bad samples of the run.
        limit (int, optional): Largest number of distinct bad samples. With None, the first bad sample ends the run.

    Raises:
        UserError: When the number of bad samples exceeds the limit. The message lists them.
    """

    def __init__(self, pipeline: Compose, log: BadSampleLog, limit: int | None) -> None:
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
        samples = self.log.samples
        if self.limit is None:
            self.log.add(name, problem, transform)
            samples = {name: (problem, transform)}
        elif name not in samples:
            self.log.read()
            if name not in samples:
                self.log.add(name, problem, transform)
                print(f"left out, {len(samples)} of at most {self.limit}: {name}: {problem}", flush=True)
        if self.limit is None or len(samples) > self.limit:
            listing = "\n".join(f"  {file}: {error}" for file, (error, _) in [*samples.items()][:MAX_LISTED_SAMPLES])
            allowance = "" if self.limit is None else f", and {self.limit} may be (--max-bad-data)"
            raise UserError(
                f"{len(samples)} samples of the data set can't be used{allowance}:\n{listing}\n{self.log.file} lists "
                f"all that were found so far. {name_common_cause(samples)}Run tools/misc/check_dataset.py to check "
                "every sample"
            )


def name_common_cause(samples: dict[str, tuple[str, str]]) -> str:
    """Return a sentence that names the transform if all of several samples have the same error, or nothing."""
    causes = set(samples.values())
    if len(samples) < MIN_COMMON_ERRORS or len(causes) > 1:
        return ""
    return f"All have the same error of {causes.pop()[1]}: check the options of this transform first. "


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


def skip_bad_samples(dataset, folder: Path, fraction: float | None) -> None:
    """Replace the pipelines of a data set, and of all data sets inside it, by :class:`SkipBadSamples`.

    Args:
        dataset (Dataset): A data set of mmengine or of a codebase. It is changed in place.
        folder (Path): Folder of the file ``bad_data.jsonl``, which gets one JSON object per bad sample. In a job of
            several processes, rank N writes ``bad_data_rankN.jsonl``, except for rank 0.
        fraction (float, optional): Largest share of bad samples, 0 to 1. Above 0, one bad sample is always allowed.
            With None, the first bad sample ends the run.
    """
    limit = None
    if fraction is not None:
        number = sum(len(part) for part in iter_innermost_datasets(dataset))
        limit = max(int(fraction * number), int(fraction > 0))
    rank = get_rank()
    name = f"{BAD_SAMPLES_LOG.stem}_rank{rank}{BAD_SAMPLES_LOG.suffix}" if rank else BAD_SAMPLES_LOG.name
    log = BadSampleLog(folder / name)
    for part in iter_datasets(dataset):
        if isinstance(pipeline := getattr(part, "pipeline", None), Compose):
            part.pipeline = SkipBadSamples(pipeline, log, limit)
