"""Read COCO JSON: boxes, masks, keypoints and panoptic segmentation."""

import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

from PIL import Image

from van_mm.datasets.folders.found import (
    Cache,
    FolderData,
    Split,
    find_split,
    get_name,
    list_files,
    list_images,
    name_splits,
    read_sizes,
)
from van_mm.utils.errors import UserError

# Words in file names that say what a JSON file is for, if a folder has several files.
OTHER_FILES = re.compile(r"caption|image_info|detection|results|stuff")
FILE_NAMES = {"panoptic": re.compile("panoptic"), "keypoints": re.compile("keypoint|pose")}
KEYPOINT_AREA = 0.53  # area of a person in relation to the box, as mmpose assumes it for COCO


def read_coco(folder: Path, kind: str, cache: Cache, seed: int) -> FolderData | None:
    """Read the files in COCO's format below a folder.

    Args:
        folder (Path): The folder, in any layout.
        kind (str): What is wanted: ``'boxes'``, ``'keypoints'`` or ``'panoptic'``. Masks come with boxes.
        cache (Cache): Where changed annotation files are kept.
        seed (int): Seed of the validation part, if it has to be split off.

    Returns:
        FolderData | None: None if there is no such file.
    """
    paths = [path for path in list_files(folder, (".json",)) if not OTHER_FILES.search(path.name.lower())]
    wanted = FILE_NAMES.get(kind)
    named = [path for path in paths if bool(wanted) == any(p.search(path.name.lower()) for p in FILE_NAMES.values())]
    if wanted:
        named = [path for path in named if wanted.search(path.name.lower())]
    found = load_files(named, kind) or load_files(paths, kind)
    if not found:
        return None
    notes: list[str] = []
    contents = {}
    for path, content in found:
        split = find_split(*path.relative_to(folder).parts)
        if split in contents:
            other = contents[split][0]
            raise UserError(
                f"{folder} has two annotation files of {split or 'no split'}: {get_name(other, folder)} and "
                f"{get_name(path, folder)}. Put 'train', 'val' or 'test' into their names, or move one elsewhere"
            )
        contents[split] = (path, content)
    return make_coco_data(folder, "COCO JSON", kind, contents, cache, seed, notes)


def load_files(paths: list[Path], kind: str) -> list[tuple[Path, dict]]:
    """Return the files with annotations of a kind, and their content."""
    found = []
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            if "annot" in path.name.lower() or "coco" in path.name.lower():
                raise UserError(f"{path} is not valid JSON: {error}. Export it again") from error
            continue
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            continue
        annotations = content.get("annotations") or [{}]
        keys = set().union(*(annotation.keys() for annotation in annotations[:100]))
        is_kind = {
            "panoptic": "segments_info" in keys,
            "keypoints": "keypoints" in keys and any(c.get("keypoints") for c in content.get("categories") or ()),
            "boxes": bool(keys & {"bbox", "segmentation"}),
        }
        if is_kind[kind]:
            found.append((path, content))
    return found


def make_coco_data(
    folder: Path,
    layout: str,
    kind: str,
    contents: dict[str | None, tuple[Path, dict]],
    cache: Cache,
    seed: int,
    notes: list[str],
) -> FolderData:
    """Make COCO contents consistent, split them, and write those that differ from the user's files into the cache.

    Args:
        folder (Path): The user's folder.
        layout (str): Name of the layout for the table.
        kind (str): ``'boxes'``, ``'keypoints'`` or ``'panoptic'``.
        contents (dict): File and content by split, or None for a file that belongs to none.
        cache (Cache): Where changed annotation files are kept.
        seed (int): Seed of the validation part, if it has to be split off.
        notes (list[str]): What is unusual.
    """
    roots, changed = {}, set()
    all_images = list_images(folder)
    categories = merge_categories(contents, kind, notes, changed)
    for split, (path, content) in contents.items():
        if "categories" not in content or content["categories"] != categories:
            changed.add(split)
            content["categories"] = categories
        roots[split], moved = find_images(content, folder, split, all_images, notes, path.name)
        if clean_content(content, kind, roots[split], notes, path.name) or moved:
            changed.add(split)
    by_id = {category["id"]: category["name"] for category in categories}
    names = list(by_id.values())

    parts, labels = {}, {}
    for split, (_, content) in contents.items():
        labels[split] = defaultdict(list)
        for annotation in content["annotations"]:
            segments = annotation.get("segments_info", [annotation])
            labels[split][annotation["image_id"]] += [by_id[segment["category_id"]] for segment in segments]
        parts[split] = {(split, image["id"]): labels[split].get(image["id"], []) for image in content["images"]}
    splits = {}
    for name, items in name_splits(parts, seed, notes).items():
        if not items:
            continue
        source = items[0][0]
        path, content = contents[source]
        ids = {image_id for _, image_id in items}
        if source in changed or len(ids) < len(content["images"]):
            part = dict(content)
            part["images"] = [image for image in content["images"] if image["id"] in ids]
            part["annotations"] = [item for item in content["annotations"] if item["image_id"] in ids]
            path = cache.write(f"{name}.json", json.dumps(part))
        counts = Counter(label for image_id in ids for label in labels[source].get(image_id, ()))
        seg_root = find_panoptic_root(content, contents[source][0], folder) if kind == "panoptic" else None
        splits[name] = Split(path, len(ids), roots[source], counts, seg_root)
        if not counts:
            raise UserError(f"the {name} part of {folder} has images but no annotations. Label some of them")
        if missing := [label for label in names if not counts[label]]:
            notes.append(f"{name} has no {', '.join(missing[:10])} ({len(missing)} of {len(names)} classes)")
    if "train" not in splits:
        raise UserError(f"{folder} has annotations, but none of its images. Put the images into the same folder")
    has_masks = kind == "boxes" and all(
        item.get("segmentation") for _, content in contents.values() for item in content["annotations"]
    )
    return FolderData(
        folder,
        "masks" if has_masks else kind,
        layout,
        {"keypoints": "people", "panoptic": "segments"}.get(kind, "boxes"),
        names,
        splits,
        read_sizes(all_images),
        notes,
        things=[category["name"] for category in categories if category.get("isthing", 1)]
        if kind == "panoptic"
        else [],
        keypoints=read_skeleton(categories) if kind == "keypoints" else {},
    )


def merge_categories(contents: dict, kind: str, notes: list[str], changed: set) -> list[dict]:
    """Return the categories of all files in one order, and number the annotations accordingly.

    A category without annotations that is only the ``supercategory`` of others, as Roboflow writes it, is left out.
    Things come before stuff, because panoptic heads count them so.
    """
    merged: dict[str, dict] = {}
    used: Counter = Counter()
    for split, (path, content) in contents.items():
        found = content.get("categories") or []
        if not found:
            raise UserError(f"{path} has no 'categories'. Add the list of classes in COCO's format")
        by_id = {category["id"]: category for category in found}
        for annotation in content.get("annotations") or ():
            for item in annotation.get("segments_info", [annotation]):
                if item.get("category_id") in by_id:
                    used[by_id[item["category_id"]]["name"]] += 1
        if merged and [category["name"] for category in found] != list(merged):
            notes.append(f"the categories of {split} are other ones, or in another order, than those of the first file")
        for category in found:
            merged.setdefault(category["name"], dict(category))
    parents = {category.get("supercategory") for category in merged.values()}
    kept = [c for name, c in merged.items() if used[name] or name not in parents or c.get("supercategory") == name]
    if kind == "keypoints":
        kept = [category for category in kept if category.get("keypoints")]
    if kind == "panoptic":
        kept.sort(key=lambda category: not category.get("isthing", 1))
    if len({category["id"] for category in kept}) < len(kept):
        kept = [dict(category, id=number) for number, category in enumerate(kept, 1)]
    if len(kept) < len(merged):
        dropped = [name for name in merged if name not in {category["name"] for category in kept}]
        notes.append(f"categories without labels of their own are left out: {', '.join(dropped)}")
    number = {category["name"]: category["id"] for category in kept}
    for split, (_, content) in contents.items():
        new_ids = {category["id"]: number.get(category["name"]) for category in content["categories"]}
        if any(old != new for old, new in new_ids.items() if new is not None):
            changed.add(split)
        for annotation in content.get("annotations") or ():
            for item in annotation.get("segments_info", [annotation]):
                item["category_id"] = new_ids.get(item.get("category_id"))
    return kept


def find_images(
    content: dict, folder: Path, split: str | None, all_images: list[Path], notes: list[str], name: str
) -> tuple[Path, bool]:
    """Find the folder of a file's images, and leave out entries whose image is missing.

    Returns:
        tuple[Path, bool]: The folder to which ``file_name`` is relative, and whether entries have changed.
    """
    images = content["images"]
    sample = [str(image.get("file_name", "")).replace("\\", "/") for image in images[:20]]
    roots = {folder: None}
    for path in all_images:
        roots |= {folder / parent: None for parent in path.relative_to(folder).parents}
    hits = {root: sum((root / file).is_file() for file in sample if file) for root in roots}
    root = max(roots, key=lambda one: (hits[one], find_split(*one.relative_to(folder).parts) == split), default=folder)
    by_name = defaultdict(list)
    for path in all_images:
        by_name[path.name].append(path)
    changed, kept = False, []
    for image in images:
        file = str(image.get("file_name", "")).replace("\\", "/")
        if file and (root / file).is_file():
            kept.append(image if file == image["file_name"] else dict(image, file_name=file))
            changed = changed or file != image["file_name"]
            continue
        same = by_name.get(Path(file).name, [])  # the file names another folder, as one of the labelling machine
        path = next((p for p in same if find_split(*p.relative_to(folder).parts[:-1]) == split), (same or [None])[0])
        changed = True
        if path:
            kept.append(dict(image, file_name=get_name(path, root)))
    if len(kept) < len(images):
        notes.append(f"{len(images) - len(kept)} of {len(images)} images of {name} do not exist and are left out")
    content["images"] = kept
    return root, changed


def clean_content(content: dict, kind: str, root: Path, notes: list[str], name: str) -> bool:
    """Complete the entries of a file, and leave out annotations that belong to nothing. Return whether it changed."""
    changed = False
    for image in content["images"]:
        if not image.get("width") or not image.get("height"):
            with Image.open(root / image["file_name"]) as opened:
                image["width"], image["height"] = opened.size
            changed = True
    ids = {image["id"] for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    annotations = content.get("annotations") or []
    if kind == "panoptic":
        kept = [item for item in annotations if item["image_id"] in ids]
        for item in kept:
            segments = [segment for segment in item["segments_info"] if segment["category_id"] in known]
            changed = changed or len(segments) < len(item["segments_info"])
            item["segments_info"] = segments
        labelled = {item["image_id"] for item in kept}
        images = [image for image in content["images"] if image["id"] in labelled]
        if len(images) < len(content["images"]):
            notes.append(f"{len(content['images']) - len(images)} images of {name} have no label map and are left out")
        changed = changed or len(kept) < len(annotations) or len(images) < len(content["images"])
        content["annotations"], content["images"] = kept, images
        return changed
    kept = []
    for item in annotations:
        if item.get("image_id") not in ids or item.get("category_id") not in known:
            continue
        if kind == "keypoints" and "keypoints" not in item:
            continue
        before = len(item)
        box = item.get("bbox") or get_box(item)
        if not box:
            continue
        item["bbox"] = box
        item.setdefault("iscrowd", 0)
        item.setdefault("area", box[2] * box[3] * (KEYPOINT_AREA if kind == "keypoints" else 1))
        if kind == "keypoints":
            item.setdefault("num_keypoints", sum(v > 0 for v in item["keypoints"][2::3]))
        changed = changed or len(item) > before
        kept.append(item)
    if len(kept) < len(annotations):
        notes.append(
            f"{len(annotations) - len(kept)} of {len(annotations)} annotations of {name} have no box, image or "
            "category, and are left out"
        )
    numbers = [item.get("id") for item in kept]
    if 0 in numbers or None in numbers or len(set(numbers)) < len(numbers):
        kept = [dict(item, id=number) for number, item in enumerate(kept, 1)]
        changed = True
    changed = changed or len(kept) < len(annotations)
    content["annotations"] = kept
    return changed


def get_box(item: dict) -> list[float] | None:
    """Return the box around the polygons or keypoints of an annotation, or None if it has none."""
    polygons = item.get("segmentation")
    points = []
    if isinstance(polygons, list) and polygons:
        flat = [value for polygon in polygons for value in polygon]
        points = list(zip(flat[::2], flat[1::2], strict=False))
    elif item.get("keypoints"):
        flat = item["keypoints"]
        points = [(x, y) for x, y, seen in zip(flat[::3], flat[1::3], flat[2::3], strict=False) if seen]
    if not points:
        return None
    x, y = min(p[0] for p in points), min(p[1] for p in points)
    return [x, y, max(p[0] for p in points) - x, max(p[1] for p in points) - y]


def find_panoptic_root(content: dict, path: Path, folder: Path) -> Path:
    """Return the folder of the panoptic label maps of a file."""
    files = [annotation["file_name"] for annotation in content["annotations"][:5]]
    folders = [path.with_suffix(""), *(Path(root) for root, _, _ in os.walk(folder))]
    root = next((one for one in folders if all((one / file).is_file() for file in files)), None)
    if root is None:
        raise UserError(f"the label maps of {path} are missing, for instance {files[0]}. Put them into {folders[0]}")
    return root


def read_skeleton(categories: list[dict]) -> dict:
    """Return the keypoints of the categories, which all have the same ones.

    Keypoints whose names differ in 'left' and 'right' change places when an image is flipped.
    """
    names = list(categories[0]["keypoints"])
    if any(list(category["keypoints"]) != names for category in categories):
        raise UserError(
            f"the categories {categories[0]['name']} and others have different keypoints, but a model has one list. "
            "Give all categories the same keypoints, or keep one category"
        )
    others = {"left": "right", "right": "left", "l": "r", "r": "l"}
    swap = []
    for index, name in enumerate(names):
        mirrored = re.sub(
            r"left|right|(?<![a-z])[lr](?![a-z])",
            lambda word: match_case(others[word[0].lower()], word[0]),
            name,
            flags=re.I,
        )
        swap.append(names.index(mirrored) if mirrored in names else index)
    count = len(names)
    links = [[a - 1, b - 1] for a, b in categories[0].get("skeleton") or () if 0 < a <= count and 0 < b <= count]
    return dict(names=names, skeleton=links, swap=categories[0].get("swap") or swap)


def match_case(word: str, example: str) -> str:
    """Return a word with the case of another one."""
    return word.upper() if example.isupper() else word.capitalize() if example[0].isupper() else word
