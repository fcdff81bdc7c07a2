"""What is found in a folder of data, and the helpers that all readers share."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from van_mm.datasets.checks.annotations import spread_indices
from van_mm.utils.errors import UserError
from van_mm.utils.image_files import IMAGE_SUFFIXES

VAL_SHARE = 0.2  # share of the images that is split off for validation; our choice
MAX_HEADERS = 200  # images whose size is read for the table; our choice
# Words that name a split, alone or with what it holds, as in train2017, trainannot, valid or val_masks.
SPLIT_WORDS = {"train": "training|train|trn", "val": "validation|valid|val|dev", "test": "testing|test"}
CONTENT_WORDS = "set|data|images?|imgs?|annot|annotations?|masks?|labels?|gt|jpg|png"
SPLIT_PATTERNS = {split: re.compile(f"({words})({CONTENT_WORDS})?") for split, words in SPLIT_WORDS.items()}


@dataclass
class Split:
    """A part of a data set.

    Attributes:
        ann_file (Path): The annotations, the user's file or one in the cache.
        images (int): Number of images.
        image_root (Path): Folder of the images, to which the names in ``ann_file`` are relative.
        counts (Counter): Number of labels of each class: images, boxes, people or label maps.
        seg_root (Path, optional): Folder of the panoptic label maps.
    """

    ann_file: Path
    images: int
    image_root: Path
    counts: Counter = field(default_factory=Counter)
    seg_root: Path | None = None


@dataclass
class FolderData:
    """A folder of data.

    Attributes:
        folder (Path): The folder.
        kind (str): What the labels are, a key of ``van_mm.apis.own_data.FITTING_CONFIGS``.
        layout (str): Name of the layout.
        counted (str): What ``Split.counts`` counts.
        classes (list[str]): Names of the classes, in the order of the labels.
        splits (dict[str, Split]): ``'train'``, ``'val'`` and perhaps ``'test'``.
        sizes (list[tuple[int, int]]): Width and height of a sample of the images.
        notes (list[str]): What is unusual or wrong.
        palette (list[list[int]], optional): Colors (R, G, B) of the classes, if the data have them.
        label_map (list[tuple[int, int]]): Values of label maps that change, with the new values.
        things (list[str]): Of panoptic data, the classes that are things.
        keypoints (dict): Of poses: ``names``, ``skeleton`` of 0-based indices, and ``swap``, the indices after a flip.
    """

    folder: Path
    kind: str
    layout: str
    counted: str
    classes: list[str]
    splits: dict[str, Split]
    sizes: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    palette: list[list[int]] | None = None
    label_map: list[tuple[int, int]] = field(default_factory=list)
    things: list[str] = field(default_factory=list)
    keypoints: dict = field(default_factory=dict)


class Cache:
    """Files that are made from a user's data, below ``data/.cache`` of the working folder.

    Nothing is written into the user's folder. The content of a file depends on the data alone, so that all processes
    and later runs make the same file.

    Args:
        folder (Path): The user's folder.
        options (object): Settings on which the content depends.
    """

    def __init__(self, folder: Path, *options: object) -> None:
        key = hashlib.sha256(repr((str(folder.resolve()), *options)).encode()).hexdigest()[:10]
        self.root = Path("data/.cache", f"{folder.resolve().name}-{key}").resolve()

    def write(self, name: str, content: str) -> Path:
        """Write a file unless it has this content already, and return its path."""
        path = self.root / name
        if not (path.is_file() and path.read_text(encoding="utf-8") == content):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{path.name}-{os.getpid()}")
                draft.write_text(content, encoding="utf-8")
                draft.replace(path)
            except OSError as error:
                raise UserError(
                    f"{path} can't be written: {error.strerror}. Start in a folder in which data/.cache can be made"
                ) from error
        return path


def find_split(*names: str) -> str | None:
    """Return the split that the names of folders and files belong to, or None. The last name that says one decides.

    Example:
        >>> find_split("images", "train2017"), find_split("valannot"), find_split("trainval"), find_split("values")
        ('train', 'val', None, None)
    """
    for name in reversed(names):
        for word in re.findall(r"[a-z]+", name.lower()):
            for split, pattern in SPLIT_PATTERNS.items():
                if pattern.fullmatch(word):
                    return split
    return None


def list_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the sorted files below a folder with one of the suffixes, in lower case, without hidden ones."""
    suffixes, files = set(suffixes), []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        files += [Path(root, name) for name in names if Path(name).suffix.lower() in suffixes and name[0] != "."]
    return sorted(files)


def list_images(folder: Path) -> list[Path]:
    """Return the sorted images below a folder."""
    return list_files(folder, IMAGE_SUFFIXES)


def get_name(path: Path, folder: Path) -> str:
    """Return a path relative to a folder, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def read_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Return width and height of a sample of images. Those that cannot be read are left out."""
    sizes = []
    for index in spread_indices(len(paths), MAX_HEADERS):
        try:
            with Image.open(paths[index]) as image:
                sizes.append(image.size)
        except OSError:
            continue
    return sizes


def split_off(items: dict[Hashable, Iterable[Hashable]], seed: int) -> tuple[list, list]:
    """Split a fifth of the items off, so that each class stays in the first part, and goes into the second if it can.

    Args:
        items (dict): The classes of each item.
        seed (int): Seed of the choice.

    Returns:
        tuple[list, list]: The items for training and for validation, in the order of ``items``. A single item is in
        both.
    """
    names = list(items)
    if len(names) < 2:
        return names, names
    wanted = max(1, round(VAL_SHARE * len(names)))
    left = Counter(kind for kinds in items.values() for kind in set(kinds))
    goals = {kind: max(1, round(VAL_SHARE * count)) for kind, count in left.items()}
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    chosen: dict[Hashable, None] = {}
    taken: Counter = Counter()
    for is_open in (  # first the classes that have too few, then any image
        lambda kinds: any(taken[kind] < goals[kind] for kind in kinds) and all(taken[k] < 2 * goals[k] for k in kinds),
        lambda kinds: True,
    ):
        for name in order:
            kinds = set(items[name])
            if len(chosen) < wanted and name not in chosen and is_open(kinds) and all(left[k] > 1 for k in kinds):
                chosen[name] = None
                left.subtract(kinds)
                taken.update(kinds)
    if not chosen:
        chosen[order[0]] = None
    return [name for name in names if name not in chosen], [name for name in names if name in chosen]


def name_splits(parts: dict[str | None, dict], seed: int, notes: list[str]) -> dict[str, list]:
    """Return the items of ``train`` and ``val``, and of ``test`` if there is one, in this order.

    Args:
        parts (dict): By split, or None for items that belong to none, the classes of each item.
        seed (int): Seed with which a validation part is split off if there is none.
        notes (list[str]): What was done is added to it.
    """
    parts = {split: items for split, items in parts.items() if items}
    loose = parts.pop(None, {})
    if loose and "train" in parts:
        notes.append(f"{len(loose)} images belong to no split and are not used")
    elif loose:
        parts["train"] = loose
    splits = {split: list(items) for split, items in parts.items()}
    if "train" not in parts:
        if not splits:
            return {}
        source = "val" if "val" in parts else "test"
        parts["train"] = parts.pop(source)
        splits = {split: list(items) for split, items in parts.items()}
        notes.append(f"there is no training part, so that {source} is split")
    if "val" not in splits and "test" in splits:
        splits["val"] = splits["test"]
        notes.append("there is no validation part: test is used for it")
    elif "val" not in splits:
        splits["train"], splits["val"] = split_off(parts["train"], seed)
        notes.append(f"there is no validation part: {len(splits['val'])} images were split off (seed {seed})")
        if splits["train"] == splits["val"]:
            notes.append("there is one image only, so that it is used for training and validation")
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def write_lists(
    parts: dict[str | None, dict[Path, Sequence[Hashable]]],
    folder: Path,
    cache: Cache,
    seed: int,
    notes: list[str],
    make_line: Callable[[Path], str],
    get_class: Callable[[Hashable], str] = str,
) -> dict[str, Split]:
    """Write a list of images for each split, and count their labels.

    Args:
        parts (dict): By split, or None for images that belong to none, the labels of each image.
        folder (Path): The user's folder, to which the names in the lists are relative.
        cache (Cache): Where the lists are kept.
        seed (int): Seed of the validation part, if it has to be split off.
        notes (list[str]): What was done is added to it.
        make_line (Callable): Returns the line of an image.
        get_class (Callable): Returns the name of a label's class. By default, labels are names.
    """
    labels = {image: found for part in parts.values() for image, found in part.items()}
    splits = {}
    for split, images in name_splits(parts, seed, notes).items():
        counts = Counter(get_class(label) for image in images for label in labels[image])
        content = "".join(f"{make_line(image)}\n" for image in images)
        splits[split] = Split(cache.write(f"{split}.txt", content), len(images), folder, counts)
    return splits
