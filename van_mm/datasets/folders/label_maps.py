"""Read images with label maps: PNGs of class indices, masks of 0 and 255, or colors."""

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from van_mm.datasets.folders.boxes import read_split_lists
from van_mm.datasets.folders.found import (
    Cache,
    FolderData,
    find_split,
    get_name,
    list_files,
    list_images,
    read_sizes,
    write_lists,
)
from van_mm.utils.errors import UserError

IGNORED = 255  # what label maps have after loading where no class applies, as everywhere in mmseg
MAX_CLASSES = 254
MAX_MAPS = 2000  # label maps whose values are counted; our choice
# Words in the names of folders that hold label maps, and of folders that hold neither images nor label maps.
MAP_WORDS = re.compile(
    r"(train|val|valid|test|seg|semantic|gt|class)?(masks?|labels?|labelmaps?|annots?|annotations?|anns?|gt|gtfine|gtcoarse|"
    r"groundtruths?|truth|segmentationclass|segmentations?|seg|mapas|parsing|semantic)"
)
IMAGE_WORDS = re.compile(r"(jpeg|leftimgbit)?(images?|imgs?)?(dir)?|photos?|input|rgb")
OTHER_WORDS = re.compile(r"segmentationobject|instances?|panoptic|depth|disparity|preview|visuali[sz]ations?|overlays?")
# Ends of file names of label maps and of images, as in frame_mask.png and frame_leftImg8bit.png.
MAP_SUFFIX = re.compile(
    r"[._ -]((gtFine_)?label(Train)?Ids|labels?|masks?|gt|seg|segmentation|annotation|L)$",
    re.I,
)
IMAGE_SUFFIX = re.compile(r"[._ -](leftImg8bit|images?|img|rgb|sat)$", re.I)
SKIPPED_SUFFIX = re.compile(r"_(gtFine|gtCoarse)_(color|instanceIds|instanceTrainIds)$")


def read_label_maps(folder: Path, cache: Cache, seed: int, ignored: int | None) -> FolderData | None:
    """Read pairs of image and label map.

    Args:
        folder (Path): The folder, in any layout.
        cache (Cache): Where lists of files and converted label maps are kept.
        seed (int): Seed of the validation part, if it has to be split off.
        ignored (int, optional): Value that stands for no class, in addition to 255.
    """
    pairs, notes = pair_files(folder)
    if not pairs:
        return None
    lists = read_split_lists(folder)
    maps = {image: label for part in pairs.values() for image, label in part.items()}
    parts: dict[str | None, dict[Path, list[int]]] = {}
    if lists and None in pairs and any(image.stem in lists for image in pairs[None]):
        for image in pairs.pop(None):
            parts.setdefault(lists.get(image.stem), {})[image] = []
    parts |= {split: dict.fromkeys(part, []) for split, part in pairs.items()}

    pixels, occurs = count_values(maps)
    palette = None
    if any(isinstance(value, tuple) for value in pixels):
        maps, names, palette, pixels, occurs = convert_colors(folder, maps, pixels, cache)
    else:
        names = read_class_names(folder)
    too_large = sorted(value for value in pixels if value > IGNORED or value < 0)
    if too_large:
        raise UserError(
            f"label maps of {folder} have the values {', '.join(map(str, too_large[:5]))}, but hold 8 bits. Number the "
            "classes from 0, and 255 where no class applies"
        )
    classes, label_map = number_classes(sorted(pixels), names, ignored, notes, folder)
    new_value = dict(label_map)
    parts = {
        split: {image: [c for v in occurs.get(image, ()) if (c := new_value.get(v, v)) != IGNORED] for image in part}
        for split, part in parts.items()
    }
    splits = write_lists(
        parts,
        folder,
        cache,
        seed,
        notes,
        lambda image: f"{get_name(image, folder)}\t{get_name(maps[image], folder)}",
        classes.__getitem__,
    )
    for split, part in splits.items():
        missing = [name for name in classes if not part.counts[name]]
        if missing and len(maps) <= MAX_MAPS:
            notes.append(f"{split} has no {', '.join(missing[:10])} ({len(missing)} of {len(classes)} classes)")
    sizes = read_sizes(list(maps))
    return FolderData(
        folder, "label maps", "images and label maps", "label maps", classes, splits, sizes, notes, palette, label_map
    )


def pair_files(folder: Path) -> tuple[dict[str | None, dict[Path, Path]], list[str]]:
    """Return the label map of each image by split, and notes about files without a partner."""
    images: dict[tuple, Path] = {}
    maps: dict[tuple, list[Path]] = defaultdict(list)
    beside: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in list_images(folder):
        above = path.relative_to(folder).parts[:-1]
        words = [re.sub(r"[^a-z]", "", part.lower()) for part in above]
        if any(map(OTHER_WORDS.fullmatch, words)) or SKIPPED_SUFFIX.search(path.stem):
            continue
        in_map_folder = any(MAP_WORDS.fullmatch(word) for word in words)
        is_map = in_map_folder or bool(MAP_SUFFIX.search(path.stem)) and path.suffix.lower() == ".png"
        stem = (MAP_SUFFIX if is_map else IMAGE_SUFFIX).sub("", path.stem)
        split = find_split(*above)
        inner = tuple(
            part
            for part, word in zip(above, words, strict=True)
            if not MAP_WORDS.fullmatch(word) and not IMAGE_WORDS.fullmatch(word)
            and not find_split(part) and word not in ("anndir", "imgdir")
        )  # fmt: skip
        if not is_map:
            beside[path.parent][path.stem].append(path)
        if is_map or "anndir" in words:
            maps[split, inner, stem].append(path)
        else:
            images[split, inner, stem] = path
    if not maps:  # photo.jpg and photo.png in one folder
        for files in beside.values():
            for stem, group in files.items():
                photos = [path for path in group if path.suffix.lower() != ".png"]
                if len(group) == 2 and len(photos) == 1:
                    (label,) = (path for path in group if path.suffix.lower() == ".png")
                    split = find_split(*photos[0].relative_to(folder).parts[:-1])
                    images[split, photos[0].parent, stem] = photos[0]
                    maps[split, photos[0].parent, stem].append(label)
    if not maps:
        return {}, []
    loose = {(split, stem): files for (split, _, stem), files in maps.items()}
    pairs: dict[str | None, dict[Path, Path]] = {}
    unpaired = 0
    for (split, inner, stem), image in images.items():
        files = maps.get((split, inner, stem)) or loose.get((split, stem)) or loose.get((None, stem))
        files = [file for file in files or () if file != image]
        if files:
            train_ids = [file for file in files if "TrainIds" in file.stem]  # Cityscapes' own and training numbers
            pairs.setdefault(split, {})[image] = (train_ids or files)[0]
        else:
            unpaired += 1
    notes = [f"{unpaired} images have no label map and are not used"] if unpaired and pairs else []
    return pairs, notes


def read_values(path: Path) -> np.ndarray:
    """Return a label map: (H, W) values, or (H, W, 3) colors. Gray colors are values."""
    with Image.open(path) as image:
        if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr"):
            colors = np.asarray(image.convert("RGB"))
            is_gray = (colors[..., 0] == colors[..., 1]).all() and (colors[..., 0] == colors[..., 2]).all()
            return colors[..., 0] if is_gray else colors
        values = np.asarray(image)
    return values.astype(np.uint8) if values.dtype == bool else values[..., 0] if values.ndim > 2 else values


def count_values(maps: dict[Path, Path]) -> tuple[Counter, dict[Path, list]]:
    """Return how many pixels have each value or color, and the values of each label map, of at most 2000 maps."""
    pixels, occurs, is_color = Counter(), {}, False
    for image, path in list(maps.items())[:MAX_MAPS]:
        try:
            values = read_values(path)
        except OSError as error:
            raise UserError(f"the label map {path} can't be read: {error}. Save it again") from error
        if values.ndim == 3:
            is_color = True
            packed = values.astype(np.int64) @ [1 << 16, 1 << 8, 1]
            found, counts = np.unique(packed, return_counts=True)
            keys = [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in found]
        else:
            found, counts = np.unique(values, return_counts=True)
            keys = [int(value) for value in found]
        pixels.update(dict(zip(keys, counts.tolist(), strict=True)))
        occurs[image] = keys
        if len(pixels) > MAX_CLASSES + 2:
            kind = "colors" if is_color else "values"
            raise UserError(
                f"label maps such as {path} have more than {MAX_CLASSES} {kind}, so that they are no classes"
                + (": JPEG changes labels. " if path.suffix.lower() in (".jpg", ".jpeg") else ". ")
                + "Save them as PNG, with one value for each class"
            )
    if is_color:  # gray maps among colored ones
        pixels = Counter({(k, k, k) if isinstance(k, int) else k: n for k, n in pixels.items()})
        occurs = {image: [(k, k, k) if isinstance(k, int) else k for k in keys] for image, keys in occurs.items()}
    return pixels, occurs


def convert_colors(folder: Path, maps: dict[Path, Path], pixels: Counter, cache: Cache) -> tuple:
    """Write label maps of colors as indices into the cache.

    The order of the classes is that of a list of names and colors in the folder, or of the colors.
    """
    named = read_color_names(folder)
    colors = list(named) or sorted(pixels)
    unknown = [color for color in pixels if color not in colors]
    number = {color: index for index, color in enumerate(colors)}
    converted, occurs, counts = {}, {}, Counter()
    for image, path in maps.items():
        values = read_values(path)
        if values.ndim == 2:
            values = np.repeat(values[..., None], 3, axis=2)
        indices = np.full(values.shape[:2], IGNORED, np.uint8)
        packed = values.astype(np.int64) @ [1 << 16, 1 << 8, 1]
        for color, index in number.items():
            indices[packed == (color[0] << 16 | color[1] << 8 | color[2])] = index
        target = cache.root / "label_maps" / Path(get_name(path, folder).replace("../", "")).with_suffix(".png")
        if not target.is_file() or target.stat().st_mtime < path.stat().st_mtime:
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(indices).save(target)
        converted[image] = target
        found, amounts = np.unique(indices, return_counts=True)
        occurs[image] = found.tolist()
        counts.update(dict(zip(found.tolist(), amounts.tolist(), strict=True)))
    names = [named.get(color) or "color_{:02x}{:02x}{:02x}".format(*color) for color in colors]
    if unknown and not named:
        raise UserError(f"{folder}: colors of label maps differ between files")
    return converted, names, [list(color) for color in colors], counts, occurs


def read_color_names(folder: Path) -> dict[tuple[int, int, int], str]:
    """Return names by color, from a file such as ``class_dict.csv`` (name,r,g,b) or ``label_colors.txt``."""
    for path in list_files(folder, (".csv", ".txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        rows = [re.split(r"[,;\s]+", line.strip()) for line in text.splitlines() if line.strip() and line[0] != "#"]
        named = {}
        for row in rows:
            numbers = [index for index, value in enumerate(row) if value.isdigit()]
            words = [value for value in row if value and not value.isdigit()]
            if len(numbers) >= 3 and words:
                named[tuple(int(row[index]) for index in numbers[:3])] = "_".join(words)
        if named and len(named) >= len(rows) - 1:
            return named
    return {}


def read_class_names(folder: Path) -> list[str]:
    """Return the names of the classes in the order of their values, from a text, CSV or YAML file, or an empty list."""
    for path in list_files(folder, (".txt", ".names", ".yaml", ".yml", ".csv")):
        name = path.stem.lower()
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix.lower() in (".yaml", ".yml"):
            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError:  # a file of something else
                continue
            found = content.get("names") or content.get("classes") if isinstance(content, dict) else None
            if found:
                return (
                    [str(found[key]) for key in sorted(found)] if isinstance(found, dict) else [str(n) for n in found]
                )
        elif re.search(r"class|label|codes|names|categories", name) or path.suffix == ".names":
            rows = [row for row in csv.reader(text.splitlines()) if row]
            if rows and all(len(row) == 1 for row in rows):
                return [re.sub(r"^\d+\s*[:,\t ]\s*", "", row[0].strip()) for row in rows]
            if rows and {"name", "class"} & {cell.strip().lower() for cell in rows[0]}:
                header = [cell.strip().lower() for cell in rows[0]]
                column = header.index("name") if "name" in header else header.index("class")
                return [row[column].strip() for row in rows[1:] if len(row) > column]
    return []


def number_classes(
    values: list[int], names: list[str], ignored: int | None, notes: list[str], folder: Path
) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the classes, and the changes of values that number them from 0 and ignore what is no class.

    Args:
        values (list[int]): The values that occur, sorted.
        names (list[str]): Names by value, if there are any.
        ignored (int, optional): Value that stands for no class, in addition to 255.
        notes (list[str]): What was done is added to it.
        folder (Path): For messages.
    """
    is_binary = set(values) <= {0, 255} and 255 in values and ignored != 255
    no_class = {ignored} | (set() if is_binary else {IGNORED})
    kept = [value for value in values if value not in no_class]
    if is_binary:
        notes.append("255 is the only value beside 0, so that it is a class, the foreground")
        if ignored != 0:
            kept = [0, 255]
    elif names:
        known = [value for value in range(len(names)) if value not in no_class]
        if beyond := [value for value in kept if value >= len(names)]:
            raise UserError(
                f"label maps of {folder} have the values {', '.join(map(str, beyond[:5]))}, but there are {len(names)} "
                "names. Add their names, or give the value of no class with --ignore-index"
            )
        kept = known
    elif kept and kept[-1] < 2 * len(kept):
        kept = [value for value in range(kept[-1] + 1) if value not in no_class]
    if len(kept) < 2:
        raise UserError(
            f"label maps of {folder} have one class only (values {', '.join(map(str, values[:5]))}). Label the "
            "background too"
        )
    label_map = [(value, index) for index, value in enumerate(kept) if value != index]
    label_map += [(value, IGNORED) for value in values if value in no_class and value != IGNORED]
    if ignored is not None and ignored not in values:
        notes.append(f"--ignore-index {ignored}: no label map has this value")
    if is_binary and not names:
        return ["background", "foreground"], label_map
    if len(names) > max(kept):
        return [names[value] for value in kept], label_map
    if len(names) == len(kept):
        return names, label_map
    return [f"class_{value}" for value in kept], label_map
