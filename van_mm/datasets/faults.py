"""Samples that can't be used: left out of training up to a limit, and found before it."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from mmengine.dataset import Compose
from PIL import Image

from van_mm.errors import UserError

SHOWN = 20  # bad samples that a message lists
LOG = "bad_data.jsonl"


class SkipBadData(Compose):
    """A data set's pipeline that leaves out samples which can't be read or used: the data set gives another for them.

    Each is one line of a log, with its error; the processes of a job and their workers share it.

    Args:
        pipeline (Compose): The data set's own.
        log (Path): File of JSON lines.
        limit (int): Distinct bad samples above which the run ends; None to end at the first.

    Raises:
        UserError: When there are more.
    """

    def __init__(self, pipeline: Compose, log: Path, limit: int | None) -> None:
        self.transforms, self.log, self.limit = pipeline.transforms, log, limit

    def __call__(self, data: dict) -> dict | None:
        name = str(data.get("img_path", data.get("sample_idx")))
        try:
            return super().__call__(data)
        except Exception as error:
            return self.skip(name, told(error))

    def skip(self, name: str, problem: str) -> None:
        """Write a sample down, and end the run where it is one too many."""
        with self.log.open("a") as file:
            file.write(json.dumps(dict(file=name, error=problem)) + "\n")
        found = {line["file"]: line["error"] for line in map(json.loads, self.log.read_text().splitlines())}
        if self.limit is None or len(found) > self.limit:
            shown = "\n".join(f"  {file}: {error}" for file, error in list(found.items())[:SHOWN])
            more = "" if self.limit is None else f", and {self.limit} may be (--max-bad-data)"
            raise UserError(
                f"{len(found)} samples of the data set can't be used{more}:\n{shown}\nAll are in {self.log}; "
                "tools/misc/check_dataset.py finds the others"
            )
        print(f"left out, {len(found)} of at most {self.limit}: {name}: {problem}", flush=True)


def told(error: Exception) -> str:
    """An error in one line, its kind before it where it is none of ours."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def parts(dataset) -> Iterator:
    """A data set and those that it is made of."""
    yield dataset
    for one in [*([dataset.dataset] if hasattr(dataset, "dataset") else []), *getattr(dataset, "datasets", [])]:
        yield from parts(one)


def skip_bad_data(dataset, log: Path, fraction: float | None) -> None:
    """Put :class:`SkipBadData` in place of the pipelines of a data set, and of those inside of it.

    Args:
        dataset (Dataset): Of mmengine's kind.
        log (Path): File of JSON lines.
        fraction (float, optional): Of the samples that may be bad; without, the first ends the run.
    """
    limit = None if fraction is None else int(fraction * len(dataset))
    for one in parts(dataset):
        if isinstance(pipeline := getattr(one, "pipeline", None), Compose):
            one.pipeline = SkipBadData(pipeline, log, limit)


@lru_cache(maxsize=256)  # a picture of many persons is many samples
def picture_problem(path: str) -> tuple[str | None, tuple[int, int]]:
    """What is wrong with an image file to its last byte, and its (H, W)."""
    try:
        with Image.open(path) as picture:
            size = picture.size[::-1]
            picture.load()
        return None, size
    except FileNotFoundError:
        return "the file is missing", (0, 0)
    except Exception as error:  # PIL's formats raise whatever they like
        return f"the image can't be read: {error}", (0, 0)


def problems(dataset, index: int) -> tuple[str, list[str]]:
    """Everything wrong with one sample of a data set whose pipeline only loads.

    Returns:
        tuple[str, list[str]]: Its file, and a line for each problem.
    """
    info = dataset.get_data_info(index)
    name = str(info.get("img_path", index))
    problem, size = picture_problem(name)
    if problem:
        return name, [problem]
    found = []
    if {"height", "width"} <= set(info) and (info["height"], info["width"]) != size:
        found.append(f"the annotation says {info['height']} x {info['width']}, the image has {size[0]} x {size[1]}")
    try:
        sample = dataset.pipeline(info)
    except Exception as error:
        return name, [*found, told(error)]
    height, width = size
    classes = len(dataset.metainfo.get("classes") or ())

    def outside(values, what: str, *known: int) -> None:
        values = np.unique(np.asarray(values))
        wrong = values[((values < 0) | (values >= classes)) & ~np.isin(values, known)] if classes else values[:0]
        if len(wrong):
            found.append(f"{what} {', '.join(map(str, wrong[:5].tolist()))}: there are {classes} classes, from 0")

    if "gt_bboxes" in sample:
        boxes = np.asarray(getattr(sample["gt_bboxes"], "tensor", sample["gt_bboxes"])).reshape(-1, 4)
        if not np.isfinite(boxes).all():
            found.append("a box that is not finite")
        elif (boxes[:, 2:] <= boxes[:, :2]).any():
            found.append("a box without area")
        elif (boxes < -1).any() or (boxes > np.array([width, height] * 2) + 1).any():
            found.append(f"a box beyond the image of {height} x {width}")
        outside(sample["gt_bboxes_labels"], "box label")
    if "gt_label" in sample:
        outside(sample["gt_label"], "label")
    if "gt_seg_map" in sample:
        labels = sample["gt_seg_map"]
        if labels.shape[:2] != size:
            found.append(f"a map of {labels.shape[0]} x {labels.shape[1]} for an image of {height} x {width}")
        outside(labels, "label", 255)
    if "keypoints" in sample:
        points, seen = np.asarray(sample["keypoints"])[..., :2], np.asarray(sample["keypoints_visible"])
        seen = (seen[..., 0] if seen.ndim == points.ndim else seen) > 0
        if not np.isfinite(points).all():
            found.append("a key point that is not finite")
        elif ((points[seen] < -1) | (points[seen] > np.array([width, height]) + 1)).any():
            found.append(f"a key point beyond the image of {height} x {width}")
    return name, found
