"""Read Pascal VOC XML and YOLO txt. globox parses the boxes, and the result is in COCO's format."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import yaml
from PIL import Image

from van_mm.datasets.folders.coco import make_coco_data
from van_mm.datasets.folders.found import Cache, FolderData, find_split, get_name, list_files, list_images
from van_mm.utils.errors import UserError


def import_box_parser():
    """Return globox's class that parses a box."""
    try:
        from globox import BoundingBox
    except ImportError as error:
        raise UserError("Pascal VOC and YOLO need the package globox. Install it: pip install globox") from error
    return BoundingBox


def read_split_lists(folder: Path) -> dict[str, str]:
    """Return the split of each name in the lists ``train.txt``, ``val.txt`` and ``test.txt`` below a folder.

    VOC keeps them in ``ImageSets``. ``trainval.txt`` counts if there is no ``train.txt``.
    """
    files = {path.stem.lower(): path for path in list_files(folder, (".txt",))}
    splits = {}
    for name in ("test", "val", "trainval", "train"):
        split = {"trainval": "train"}.get(name, name)
        if name in files and not (name == "trainval" and "train" in files):
            for line in files[name].read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip():
                    splits[Path(line.split()[0]).stem] = split
    return splits


def read_voc(folder: Path, cache: Cache, seed: int) -> FolderData | None:
    """Read Pascal VOC XML, in VOC's layout, beside the images, or in folders of splits."""
    trees = []
    for path in list_files(folder, (".xml",)):
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            raise UserError(f"{path} is not valid XML: {error}. Export it again") from error
        if root.tag == "annotation":
            trees.append((path, root))
    if not trees:
        return None
    parser = import_box_parser()
    images = {}
    for path in list_images(folder):
        images.setdefault(path.stem, []).append(path)
    lists, notes, records, missing, wrong = read_split_lists(folder), [], {}, [], 0
    for path, root in trees:
        split = lists.get(path.stem) or find_split(*path.relative_to(folder).parts[:-1])
        found = images.get(path.stem) or images.get(Path(root.findtext("filename") or "").stem, [])
        found = [one for one in found if "Segmentation" not in str(one.parent)]
        image = next((p for p in found if find_split(*p.relative_to(folder).parts[:-1]) == split), (found or [None])[0])
        if image is None:
            missing.append(path)
            continue
        objects = []
        for node in root.iter("object"):
            try:
                box = parser.from_xml(node)
            except Exception:  # globox's errors have no common class
                wrong += 1
                continue
            crowd = int((node.findtext("difficult") or "0").strip() == "1")  # VOC's evaluation ignores these
            objects.append((box.label, dict(bbox=list(box.ltwh), iscrowd=crowd)))
        records.setdefault(split, []).append((image, objects))
    if missing:
        notes.append(f"{len(missing)} XML files have no image and are left out, for instance {missing[0].name}")
    if wrong:
        notes.append(f"{wrong} objects have no name or no usable box and are left out")
    names = sorted({name for part in records.values() for _, objects in part for name, _ in objects})
    if not names:
        raise UserError(
            f"{folder} has {len(trees)} XML files of Pascal VOC, but no labelled image. Put the images there"
        )
    return convert(folder, "Pascal VOC XML", "boxes", names, records, cache, seed, notes)


def read_yolo(folder: Path, kind: str, cache: Cache, seed: int) -> FolderData | None:
    """Read YOLO txt with its ``data.yaml``: boxes, polygons, or keypoints with ``kpt_shape``."""
    settings, yaml_file = read_data_yaml(folder)
    if not settings and not has_label_files(folder):
        return None
    parser = import_box_parser()
    base = yaml_file.parent if yaml_file else folder
    groups: dict[str | None, list[Path]] = {}
    for split in ("train", "val", "test"):
        places = settings.get(split) or (settings.get("valid") if split == "val" else None)
        for place in [places] if isinstance(places, str) else places or ():
            if path := find_place(str(place), base, folder, settings.get("path")):
                groups.setdefault(split, []).extend(list_places(path))
    if not groups:
        for path in list_images(folder):
            groups.setdefault(find_split(*path.relative_to(folder).parts[:-1]), []).append(path)
    shape = settings.get("kpt_shape") or [0, 0]
    names = read_names(settings, folder)
    records, unlabelled, wrong, largest = {}, 0, 0, -1
    for split, images in groups.items():
        for image in dict.fromkeys(images):
            path = find_label_file(image)
            if path is None:
                unlabelled += 1
            with Image.open(image) as opened:
                size = opened.size
            objects = []
            for line in path.read_text().splitlines() if path else ():
                if not line.strip():
                    continue
                try:
                    number, item = parse_line(line, size, shape, parser)
                except Exception:  # globox's errors have no common class
                    wrong += 1
                    continue
                largest = max(largest, number)
                objects.append((number, item))
            records.setdefault(split, []).append((image, objects))
    if largest < 0:
        return None
    notes = []
    if unlabelled:
        notes.append(f"{unlabelled} images have no label file and count as images without objects")
    if wrong:
        notes.append(f"{wrong} lines of label files are not 'class x y width height' and are left out")
    if largest >= len(names):
        if names:
            raise UserError(
                f"label files of {folder} have class {largest}, but data.yaml has {len(names)} names. Add the names"
            )
        notes.append("no data.yaml or classes.txt names the classes")
        names = [f"class_{number}" for number in range(largest + 1)]
    named = {
        split: [(image, [(names[number], item) for number, item in objects]) for image, objects in part]
        for split, part in records.items()
    }
    if kind == "keypoints" and not shape[0]:
        return None
    keypoints = {}
    if kind == "keypoints":
        points = settings.get("kpt_names") or [f"point_{index}" for index in range(shape[0])]
        points = next(iter(points.values())) if isinstance(points, dict) else points
        keypoints = dict(keypoints=list(points), skeleton=[])
        if settings.get("flip_idx"):
            keypoints["swap"] = list(settings["flip_idx"])
    layout = f"YOLO txt{f' ({yaml_file.name})' if yaml_file else ''}"
    return convert(folder, layout, kind, names, named, cache, seed, notes, keypoints)


def has_label_files(folder: Path) -> bool:
    """Return whether a folder without ``data.yaml`` has text files in ``labels``, or one beside an image."""
    if any("labels" in path.relative_to(folder).parts for path in list_files(folder, (".txt",))):
        return True
    return bool(read_names({}, folder)) and any(path.with_suffix(".txt").is_file() for path in list_images(folder))


def read_data_yaml(folder: Path) -> tuple[dict, Path | None]:
    """Return the content and the path of the YAML file that names classes and folders."""
    for path in list_files(folder, (".yaml", ".yml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Correct it") from error
        if isinstance(content, dict) and "names" in content:
            return content, path
    return {}, None


def read_names(settings: dict, folder: Path) -> list[str]:
    """Return the names of the classes, from ``data.yaml`` or from a file with a name a line."""
    names = settings.get("names")
    if isinstance(names, dict):
        return [str(names[key]) for key in sorted(names, key=int)]
    if names:
        return [str(name) for name in names]
    for path in list_files(folder, (".txt", ".names")):
        if path.name.lower() in ("classes.txt", "obj.names", "labels.txt", "names.txt", "_darknet.labels"):
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return []


def find_place(place: str, base: Path, folder: Path, root: str | None) -> Path | None:
    """Return the folder or list that ``data.yaml`` names, which may have been written on another machine."""
    parts = [part for part in Path(place).parts if part not in ("..", ".", "/")]
    inner = Path(*parts) if parts else Path(".")
    candidates = [base / (root or ".") / place, Path(root or ".") / place, base / place, base / inner, folder / inner]
    for index in range(1, len(parts)):
        if find_split(*parts[index:]) == find_split(*parts):  # a folder of all splits is not what is meant
            candidates.append(folder / Path(*parts[index:]))
    return next((path for path in candidates if path.exists()), None)


def list_places(path: Path) -> list[Path]:
    """Return the images of a folder, or those that a text file lists."""
    if path.is_dir():
        return list_images(path)
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    return [one for line in lines if (one := find_place(line, path.parent, path.parent, None))]


def find_label_file(image: Path) -> Path | None:
    """Return the label file of an image: in ``labels`` instead of ``images``, or beside the image."""
    parts = list(image.parts)
    candidates = [image.with_suffix(".txt"), image.parent.parent / "labels" / f"{image.stem}.txt"]
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() in ("images", "imgs", "jpegimages"):
            candidates.insert(0, Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt"))
            break
    return next((path for path in candidates if path.is_file()), None)


def parse_line(line: str, size: tuple[int, int], shape: list[int], parser) -> tuple[int, dict]:
    """Return the number of the class, and the box, polygon or keypoints of a line of a label file.

    Args:
        line (str): "class x y width height", perhaps with keypoints behind it, or "class x1 y1 x2 y2 ...".
        size (tuple[int, int]): Width and height of the image.
        shape (list[int]): Number of keypoints, and values of each: x, y and perhaps the visibility.
        parser: globox's ``BoundingBox``.
    """
    values = line.split()
    number = int(float(values[0]))
    width, height = size
    if shape[0] and len(values) == 5 + shape[0] * shape[1]:
        flat = [float(value) for value in values[5:]]
        points = []
        for index in range(0, len(flat), shape[1]):
            x, y = flat[index] * width, flat[index + 1] * height
            seen = int(flat[index + 2]) if shape[1] == 3 else 2 * (x > 0 or y > 0)
            points += [x * bool(seen), y * bool(seen), seen]
        box = parser.from_yolo_v5(" ".join(values[:5]), image_size=size)
        return number, dict(bbox=list(box.ltwh), keypoints=points)
    if len(values) > 6:
        flat = [float(value) for value in values[1:]]
        if len(flat) % 2:
            raise ValueError("an odd number of coordinates")
        polygon = [
            value * side
            for x, y in zip(flat[::2], flat[1::2], strict=True)
            for value, side in ((x, width), (y, height))
        ]
        return number, dict(segmentation=[polygon])
    box = parser.from_yolo_v5(line, image_size=size)
    return number, dict(bbox=list(box.ltwh))


def convert(
    folder: Path,
    layout: str,
    kind: str,
    names: list[str],
    records: dict[str | None, list[tuple[Path, list[tuple[str, dict]]]]],
    cache: Cache,
    seed: int,
    notes: list[str],
    keypoints: dict | None = None,
) -> FolderData:
    """Write records of images and objects as COCO JSON into the cache, and return what they hold."""
    categories = [dict(id=number, name=name, **(keypoints or {})) for number, name in enumerate(names, 1)]
    ids = {category["name"]: category["id"] for category in categories}
    contents = {}
    for split, part in records.items():
        images, annotations = [], []
        for number, (image, objects) in enumerate(part, 1):
            images.append(dict(id=number, file_name=get_name(image, folder)))
            for name, item in objects:
                annotations.append(dict(item, id=len(annotations) + 1, image_id=number, category_id=ids[name]))
        contents[split] = (
            Path(f"{split or 'labels'}"),
            dict(images=images, annotations=annotations, categories=categories),
        )
    return make_coco_data(folder, layout, kind, contents, cache, seed, notes)
