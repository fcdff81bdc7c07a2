"""Check the label maps of semantic segmentation, and the settings of heads that have to match them."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from van_mm.datasets.bad_samples import iter_datasets
from van_mm.datasets.checks.annotations import join_names, spread_indices
from van_mm.datasets.checks.classes import get_classes
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import get_type_name, iter_dicts

MAX_HEADERS = 1000  # largest number of label maps whose headers are read (our choice)
MAX_MAPS = 32  # label maps that are decoded at the start of a run (our choice)
MAX_PIXELS = 50_000_000  # number of pixels after which no other one of them is decoded (our choice)
MAX_SECONDS = 2  # time for more label maps, if a class does not occur in the first ones (our choice)
IGNORED_SHARE = 0.01  # share of ignored pixels from which on they may be a class (our choice)
DEFAULT_IGNORED = 255  # mmseg's ignore_index
TWO_SETTINGS = (
    "Set num_classes=2 with the classes background and foreground; or num_classes=2, out_channels=1, threshold=0.5 and "
    "loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True). Both need two names in metainfo.classes"
)


# ---- The values of label maps --------------------------------------------------------------------------------------
def get_map_loader(dataset):
    """Return mmseg's transform that loads the label maps of a data set, or None if another one loads them."""
    for transform in getattr(getattr(dataset, "pipeline", None), "transforms", ()):
        load = getattr(type(transform), "_load_seg_map", None)
        if load and (load.__module__, load.__qualname__) == (
            "mmseg.datasets.transforms.loading",
            "LoadAnnotations._load_seg_map",
        ):
            return transform
    return None


def read_map(path: str, loader) -> np.ndarray:
    """Return the raw values of a label map, of any type and with any number of channels."""
    return np.squeeze(mmcv.imread(path, flag="unchanged", backend=loader.imdecode_backend))


def describe_wrong_map(raw: np.ndarray, path: str, backend: str) -> str | None:
    """Return what makes a label map unusable, or None.

    Args:
        raw (np.ndarray): The values as the pipeline decodes them.
        path (str): The file. Its header tells why there are several channels.
        backend (str): The decoding backend, ``'pillow'`` or ``'cv2'``.

    Returns:
        str | None: "<problem>. <remedy>", with the raw values of maps of more than 8 bits.
    """
    if raw.ndim > 2:
        with Image.open(path) as image:
            mode = image.mode
        if mode == "P":
            return (
                f"is a palette image, which imdecode_backend='{backend}' turns into colors. Set "
                "imdecode_backend='pillow' in LoadAnnotations, which reads the indices"
            )
        name = {"RGB": "red, green, blue", "RGBA": "red, green, blue, alpha", "LA": "gray, alpha"}.get(mode, mode)
        return (
            f"has {len(name.split(', '))} channels ({name}). Save label maps with one channel of labels, or as palette "
            "images whose indices are the labels"
        )
    if raw.dtype in (bool, np.uint8):
        return None
    values = np.unique(raw)
    wrong = values[(values < 0) | (values > 255) | (values != np.round(values))]
    if not len(wrong):
        return None
    wrapped = int(wrong[0]) % 256
    return (
        f"has the values {join_names(wrong.tolist())} ({raw.dtype}), which training cuts to 8 bits: {wrong[0]} becomes "
        f"{wrapped}. Save label maps with 8 bits, with labels from 0, and 255 where no class applies"
    )


def map_labels(dataset) -> np.ndarray:
    """Return the label that training sees for each of the 256 values of a label map."""
    labels = np.arange(256)
    if dataset.reduce_zero_label:
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
    label_map = getattr(dataset, "label_map", None) or {}
    return np.array([label_map.get(label, label) for label in labels.tolist()])


@dataclass
class MapStatistics:
    """What a sample of label maps contains.

    Attributes:
        pixels (np.ndarray): Number of pixels of each raw value from 0 to 255.
        maps (int): Number of decoded maps.
        decoded (int): Number of pixels of all of them, the unusable ones included.
        wrong (list[tuple[str, str]]): Each unusable map with its problem.
        example (dict[int, str]): A map that contains the raw value.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    maps: int = 0
    decoded: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    example: dict[int, str] = field(default_factory=dict)

    def add(self, path: str, loader) -> None:
        """Add a map. Files that cannot be read are left to the checks of single samples."""
        try:
            raw = read_map(path, loader)
        except Exception:  # each decoder raises its own errors
            return
        self.maps += 1
        self.decoded += raw.size
        if problem := describe_wrong_map(raw, path, loader.imdecode_backend):
            self.wrong.append((path, problem))
            return
        counts = np.bincount(raw.astype(np.uint8).ravel(), minlength=256)
        self.pixels += counts
        for value in np.flatnonzero(counts).tolist():
            self.example.setdefault(value, path)


def get_map_paths(dataset) -> list[str]:
    """Return the files of at most 1000 evenly spaced label maps, in an order whose start is a sample of all."""
    indices = spread_indices(len(dataset), MAX_HEADERS)
    first = spread_indices(len(indices), MAX_MAPS)
    order = [*indices[first], *np.delete(indices, first)]
    paths = [dataset.get_data_info(int(index)).get("seg_map_path") for index in order]
    return [path for path in paths if isinstance(path, str) and Path(path).is_file()]


def read_format(path: str) -> tuple[str, str] | None:
    """Return format and mode from the header of an image, or None if Pillow cannot read it."""
    try:
        with Image.open(path) as image:
            return image.format, image.mode
    except Exception:
        return None


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield the problems of a data set with label maps: their format, their values, and classes that never occur."""
    loader = get_map_loader(dataset)
    if loader is None or not hasattr(dataset, "reduce_zero_label"):
        return
    if loader.reduce_zero_label not in (None, dataset.reduce_zero_label):
        yield Problem(
            f"LoadAnnotations of the {split} pipeline has reduce_zero_label={loader.reduce_zero_label}, but the "
            f"{split} data set has {dataset.reduce_zero_label}. Set reduce_zero_label of the data set only"
        )
        return
    paths = get_map_paths(dataset)
    formats = {path: read_format(path) for path in paths}
    lossy = [path for path, kind in formats.items() if kind and kind[0] in ("JPEG", "MPO")]
    if lossy:
        yield Problem(
            f"{len(lossy)} of {len(paths)} label maps of the {split} data set are JPEG files, whose compression "
            f"changes labels, for instance {lossy[0]}. Save label maps as PNG",
            is_error=False,
        )
    usual = max(set(formats.values()), key=list(formats.values()).count) if formats else None
    rare = [path for path, kind in formats.items() if kind != usual][:MAX_MAPS]  # decoded whatever their position
    names = get_classes(dataset)
    ignored, labels = get_ignored_labels(cfg), map_labels(dataset)
    statistics, end = MapStatistics(), math.inf
    for number, path in enumerate(dict.fromkeys([*rare, *paths])):
        if number >= len(rare) + MAX_MAPS or statistics.decoded >= MAX_PIXELS:
            end = min(end, time.monotonic() + MAX_SECONDS)
            if statistics.wrong or not may_ignore_class(statistics, labels, len(names), ignored):
                break
            if time.monotonic() > end:
                break
        statistics.add(path, loader)
    total = f"{statistics.maps} label maps" + (
        f" (a sample of {len(dataset)})" if statistics.maps < len(dataset) else ""
    )
    if statistics.wrong:
        path, problem = statistics.wrong[0]
        yield Problem(
            f"{len(statistics.wrong)} of {total} of the {split} data set can't be used, for instance {path}, which "
            f"{problem}"
        )
    if names and not statistics.wrong:
        yield from find_label_problems(statistics, labels, names, ignored, total, split)
        if dataset.reduce_zero_label and DEFAULT_IGNORED not in ignored:
            yield Problem(
                f"reduce_zero_label=True of the {split} data set turns label 0 into 255, but ignore_index of the heads "
                f"is {join_names(sorted(ignored))}. Set ignore_index=255, or reduce_zero_label=False"
            )


def may_ignore_class(statistics: MapStatistics, labels: np.ndarray, num_classes: int, ignored: set[int]) -> bool:
    """Return whether the ignored pixels may be a class: one class never occurs, or only one does."""
    occurring = {int(labels[value]) for value in np.flatnonzero(statistics.pixels)} - ignored
    missing = set(range(num_classes)) - ignored - occurring
    share = statistics.pixels[np.isin(labels, list(ignored))].sum() / max(1, statistics.pixels.sum())
    if not missing or not share:
        return False
    return len(occurring) <= 1 or (len(missing) == 1 and share >= IGNORED_SHARE)


def find_label_problems(
    statistics: MapStatistics, labels: np.ndarray, names: tuple[str, ...], ignored: set[int], total: str, split: str
) -> Iterator[Problem]:
    """Yield a problem for labels beyond the classes, and for ignored values that may be a class."""
    present = np.flatnonzero(statistics.pixels)
    wrong = [int(value) for value in present if labels[value] >= len(names) and int(labels[value]) not in ignored]
    if wrong:
        yield Problem(
            f"{total} of the {split} data set have the labels {join_names(wrong)}, for instance "
            f"{statistics.example[wrong[0]]}, but there are {len(names)} classes ({join_names(names)}) and the ignored "
            f"label {join_names(sorted(ignored)) or 'None'}. Number the labels from 0, list all classes in "
            "metainfo.classes, or set ignore_index of heads and metric",
            is_error=split == "train",
        )
        return
    if not may_ignore_class(statistics, labels, len(names), ignored):
        return
    occurring = {int(labels[value]) for value in present} - ignored
    missing = [label for label in range(len(names)) if label not in occurring | ignored]
    value = max((value for value in present if int(labels[value]) in ignored), key=lambda v: statistics.pixels[v])
    share = 100 * statistics.pixels[value] / statistics.pixels.sum()
    listing = join_names(f"{label} ({names[label]})" for label in missing)
    subject = f"class {listing} never occurs" if len(missing) == 1 else f"classes {listing} never occur"
    reason = " because of reduce_zero_label=True" if value == 0 and labels[0] == DEFAULT_IGNORED else ""
    yield Problem(
        f"{subject} in {total} of the {split} data set; {value} is {share:.2g} % of the pixels and "
        f"is ignored{reason}: is it your foreground? Then "
        + ("set reduce_zero_label=False" if reason else f"save the label maps with {missing[0]} instead of {value}")
        + ". Otherwise, add label maps in which the class occurs",
        is_error=split == "train" and len(occurring) <= 1,
    )


# ---- The settings of heads, metrics and pipelines ------------------------------------------------------------------
def iter_seg_heads(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Yield the dotted path and the config of each decode head and auxiliary head of a segmentor."""
    for key in ("decode_head", "auxiliary_head"):
        heads = cfg.model.get("module", cfg.model).get(key)  # test-time augmentation wraps the model
        for index, head in enumerate(heads) if isinstance(heads, (list, tuple)) else [(None, heads)]:
            if isinstance(head, dict) and head:
                path = f"model.{key}" + ("" if index is None else f".{index}")
                if "kernel_generate_head" in head:  # K-Net's refines the maps of this one
                    path, head = f"{path}.kernel_generate_head", head["kernel_generate_head"]
                yield path, head


def get_ignored_labels(cfg: Config) -> set[int]:
    """Return the labels that the heads of a segmentor ignore, and 255 for a model without such heads."""
    values = [head.get("ignore_index", DEFAULT_IGNORED) for _, head in iter_seg_heads(cfg)]
    return {value for value in values or [DEFAULT_IGNORED] if value is not None}


def find_setting_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield the problems of a segmentor's settings: one class, and ignored labels that differ."""
    if cfg.get("default_scope") != "mmseg":
        return
    for path, head in iter_seg_heads(cfg):
        yield from find_binary_problems(path, head)
    yield from find_ignore_problems(cfg, datasets)


def find_binary_problems(path: str, head: dict) -> Iterator[Problem]:
    """Yield a problem if a head has a single class, or a single channel whose loss is a softmax."""
    if head.get("num_classes") == 1:
        yield Problem(
            f"{path}.num_classes is 1: a softmax over one class is always 1, and a sigmoid has no label for the "
            f"background. {TWO_SETTINGS}"
        )
    elif head.get("out_channels") == 1 and head.get("num_classes") == 2:
        losses = head.get("loss_decode") or get_default_losses(head)
        for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
            if loss and get_type_name(loss) == "CrossEntropyLoss" and not loss.get("use_sigmoid"):
                yield Problem(
                    f"{path}.out_channels is 1 and its CrossEntropyLoss is a softmax, which is always 1 for one "
                    f"channel. Set {path}.loss_decode.use_sigmoid=True, or out_channels=2"
                )


def get_default_losses(head: dict):
    """Return the default of a head's ``loss_decode``."""
    kind = head["type"]
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    for base in getattr(kind, "__mro__", ()):
        parameter = signature(base.__init__).parameters.get("loss_decode") if "__init__" in vars(base) else None
        if parameter:
            return parameter.default
    return None


def find_ignore_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a problem if heads ignore different labels, or if a metric ignores another label than the heads."""
    ignored = {path: head.get("ignore_index", DEFAULT_IGNORED) for path, head in iter_seg_heads(cfg)}
    if not ignored:
        return
    if len(set(ignored.values())) > 1:
        listing = ", ".join(f"{path} has {value}" for path, value in ignored.items())
        yield Problem(f"the heads have different ignore_index: {listing}. Set ignore_index of all heads to one label")
        return
    label = next(iter(ignored.values()))
    if "train" in datasets and label is not None:
        count = min(head.get("num_classes") or math.inf for _, head in iter_seg_heads(cfg))
        yield from find_padding_problems(get_padding(cfg, datasets["train"]), label, count)
    for split in ("val", "test"):
        for metric in iter_dicts(cfg.get(f"{split}_evaluator")) if split in datasets else ():
            found = metric.get("ignore_index", DEFAULT_IGNORED)
            if get_type_name(metric) == "IoUMetric" and label is not None and found != label:
                yield Problem(
                    f"ignore_index of the heads is {label}, but {split}_evaluator ignores {found}, so that it counts "
                    f"pixels without a class as wrong. Set {split}_evaluator.ignore_index={label}",
                    is_error=False,
                )


def get_padding(cfg: Config, dataset) -> dict[str, int]:
    """Return the label of padded pixels by the setting that gives it, of the preprocessor and of the transforms."""
    padding = {}
    preprocessor = {**(cfg.get("data_preprocessor") or {}), **(cfg.model.get("data_preprocessor") or {})}
    if preprocessor.get("size") or preprocessor.get("size_divisor"):
        padding["data_preprocessor.seg_pad_val"] = preprocessor.get("seg_pad_val", DEFAULT_IGNORED)
    for part in iter_datasets(dataset):
        for transform in iter_transforms(getattr(part, "pipeline", ())):
            name, fill = type(transform).__name__, getattr(transform, "pad_val", None)
            if hasattr(transform, "seg_pad_val"):
                padding[f"seg_pad_val of {name}"] = transform.seg_pad_val
            elif isinstance(fill, dict):  # of mmcv's Pad
                padding[f"pad_val.seg of {name}"] = fill.get("seg", DEFAULT_IGNORED)
    return padding


def iter_transforms(pipeline) -> Iterator:
    """Yield the transforms of a pipeline, and those inside others such as ``RandomApply``."""
    for transform in pipeline if isinstance(pipeline, (list, tuple)) else [pipeline]:
        yield transform
        yield from iter_transforms(getattr(transform, "transforms", ()))


def find_padding_problems(padding: dict[str, int], ignored: int, num_classes: int) -> Iterator[Problem]:
    """Yield a problem for each setting that pads label maps with another label than the ignored one.

    Args:
        padding (dict[str, int]): The label of padded pixels by the setting that gives it.
        ignored (int): The label that the heads ignore.
        num_classes (int): Number of classes of the heads.
    """
    for key, label in padding.items():
        if label == ignored or label is None:
            continue
        is_class = 0 <= label < num_classes
        effect = f"are trained as class {label}" if is_class else "have a label that is no class, and training fails"
        yield Problem(
            f"{key} is {label}, but ignore_index of the heads is {ignored}: padded pixels {effect}. Set {key} to "
            f"{ignored}",
            is_error=not is_class,
        )
