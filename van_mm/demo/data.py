"""Small generated data sets in the on-disk formats of the real ones, so that every config runs undownloaded.

Each writer fills one folder in the layout that the data set's own class expects. Everything follows from
``SEED``; training and validation images are drawn from different streams.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from van_mm.datasets.layouts import LAYOUTS

from .draw import HUES, KEYPOINTS, SHAPES, backdrop, figure, noise, paint, scene, to_uint8

SEED = 2202
VERSION = 2  # raise it when the drawings or formats change: older folders are then made anew

# ImageNet-1K classes that are drawn: synset id -> (label, shape, hue).
IMAGENET = {
    "n02782093": (417, "disc", "red"),
    "n02799071": (429, "disc", "blue"),
    "n03291819": (549, "square", "orange"),
    "n03445777": (574, "square", "cyan"),
    "n03544143": (604, "triangle", "green"),
    "n04254680": (805, "star", "purple"),
    "n04507155": (879, "star", "yellow"),
    "n07873807": (963, "cross", "lime"),
}

# Object classes that are drawn for detection and for segmentation: name -> (shape, hue).
COCO_THINGS = {
    "sports ball": ("disc", "red"),
    "frisbee": ("disc", "blue"),
    "stop sign": ("square", "cyan"),
    "book": ("square", "yellow"),
    "kite": ("triangle", "green"),
    "teddy bear": ("star", "purple"),
}
COCO_STUFF = {"sky": "sky-other-merged", "grass": "grass-merged", "sea": "sea", "sand": "sand"}
ADE_THINGS = {
    "ball": ("disc", "red"),
    "plate": ("disc", "blue"),
    "box": ("square", "cyan"),
    "signboard": ("square", "yellow"),
    "tent": ("triangle", "green"),
    "flag": ("star", "purple"),
}
# Pixel values in ADE20K's annotation PNGs, 1 to 150; 0 is "other".
ADE_IDS = {
    "sky": 3,
    "grass": 10,
    "sea": 27,
    "box": 42,
    "signboard": 44,
    "sand": 47,
    "tent": 115,
    "ball": 120,
    "plate": 143,
    "flag": 150,
}


def _rng(*stream: int) -> np.random.Generator:
    return np.random.default_rng((SEED, *stream))


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"could not write {path}")


def _progress(items: Iterable, what: str) -> Iterable:
    return track(list(items), description=f"demo data: drawing {what}")


def _scraps(rng: np.random.Generator, image: np.ndarray) -> None:
    """Up to three small grey boxes in ``image`` (H, W, 3), to be ignored."""
    for _ in range(rng.integers(0, 4)):
        x, y = (rng.integers(0, side) for side in image.shape[1::-1])
        w, h = rng.integers(6, 16, 2)
        image[y : y + h, x : x + w] = rng.uniform(40, 210)


def _object_image(rng: np.random.Generator, shape: str, hue: str, size: int = 128) -> np.ndarray:
    """One thing in the middle of a picture (size, size, 3), with a few scraps around it."""
    image, _ = backdrop(rng, size, size)
    _scraps(rng, image)
    radius = size * rng.uniform(0.26, 0.4)
    paint(rng, image, shape, hue, size / 2 + rng.uniform(-0.1, 0.1, 2) * size, radius)
    return to_uint8(image)


def write_imagenet(root: Path, train: int = 100, val: int = 20) -> None:
    """ImageNet-1K's folders and meta files with ``train`` and ``val`` images for each of eight classes."""
    (root / "meta").mkdir(parents=True)
    for split, (name, number) in enumerate((("train", train), ("val", val))):
        lines = []
        for synset, (label, shape, hue) in _progress(IMAGENET.items(), f"ImageNet {name}"):
            for i in range(number):
                file = f"{synset}/{synset}_{i}.JPEG" if name == "train" else f"demo_{label:04d}_{i:04d}.JPEG"
                _write_image(root / name / file, _object_image(_rng(0, split, label, i), shape, hue))
                lines.append(f"{file} {label}\n")
        (root / "meta" / f"{name}.txt").write_text("".join(lines))


def write_cub(root: Path, train: int = 8, val: int = 2) -> None:
    """CUB-200-2011's folders and index files. Each class is a shape, a colour and a background tint of its own."""
    looks = [(shape, hue, tint) for tint in range(7) for hue in HUES for shape in SHAPES][:200]
    index = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    count = 0
    for label, (shape, hue, tint) in enumerate(_progress(looks, "CUB-200"), 1):
        folder = f"{label:03d}.Demo_{shape}_{hue}_{tint}"
        index["classes"].append(f"{label} {folder}\n")
        for i in range(train + val):
            count += 1
            image = _object_image(_rng(1, label, i), shape, hue).astype(np.float32)
            image = np.roll(image, tint % 3, axis=2) * (1 - 0.15 * (tint // 3))
            file = f"{folder}/Demo_{i:04d}_{count}.jpg"
            _write_image(root / "images" / file, to_uint8(image))
            index["images"].append(f"{count} {file}\n")
            index["image_class_labels"].append(f"{count} {label}\n")
            index["train_test_split"].append(f"{count} {int(i < train)}\n")
    for name, lines in index.items():
        (root / f"{name}.txt").write_text("".join(lines))


def write_ade(root: Path, train: int = 240, val: int = 40, size: tuple[int, int] = (256, 320)) -> None:
    """ADE20K's images and annotation PNGs."""
    for split, (name, number) in enumerate((("training", train), ("validation", val))):
        for i in _progress(range(1, number + 1), f"ADE20K {name}"):
            image, things, grounds = scene(_rng(2, split, i), *size, ADE_THINGS)
            label = np.zeros(size, np.uint8)
            for ground, mask in grounds.items():
                label[mask] = ADE_IDS[ground]
            for thing in things:
                label[thing.mask] = ADE_IDS[thing.name]
            file = f"ADE_{'train' if split == 0 else 'val'}_{i:08d}"
            _write_image(root / "images" / name / f"{file}.jpg", image)
            _write_image(root / "annotations" / name / f"{file}.png", label)


def write_saliency(root: Path, train: int = 240, val: int = 40) -> None:
    """DUTS, DUT-OMRON and PASCAL-S: images of several sizes, and masks of the one or two things in them."""
    for number, (subset, layout) in enumerate(LAYOUTS.items()):
        for i in _progress(range(train if subset == "DUTS-TR" else val), subset):
            rng = _rng(5, number, i)
            height, width = (int(side) for side in rng.integers(160, 300, 2))
            image, _ = backdrop(rng, height, width)
            _scraps(rng, image)
            salient = np.zeros((height, width), bool)
            for _ in range(rng.integers(1, 3)):
                radius = min(height, width) * rng.uniform(0.15, 0.3)
                center = rng.uniform((radius, radius), (width - radius, height - radius))
                salient |= paint(rng, image, str(rng.choice(SHAPES)), str(rng.choice(list(HUES))), center, radius)
            _write_image(root / layout.images / f"{subset}_{i:05d}.jpg", to_uint8(image))
            _write_image(root / layout.masks / f"{subset}_{i:05d}.png", 255 * salient.astype(np.uint8))


def coco_categories() -> list[dict]:
    """COCO panoptic's 133 categories: id, name, isthing."""
    return json.loads((Path(__file__).parent / "coco_categories.json").read_text())


def write_coco(root: Path, train: int = 500, val: int = 40) -> None:
    """COCO's instances, panoptic and person keypoints annotations, and person boxes for top-down pose.

    Objects and people stand on images of their own, under ids from 1 and from 500001.
    """
    (root / "annotations").mkdir(parents=True)
    (root / "person_detection_results").mkdir()
    for split, (name, number) in enumerate((("train2017", train), ("val2017", val))):
        _write_coco_scenes(root, name, split, number)
        _write_coco_people(root, name, split, number)


def _coco_image(number: int, height: int, width: int) -> dict:
    return dict(id=number, file_name=f"{number:012d}.jpg", height=height, width=width)


def _box(mask: np.ndarray) -> list[int]:
    """(x, y, w, h) of a mask."""
    return [int(v) for v in cv2.boundingRect(mask.astype(np.uint8))]


def _polygons(mask: np.ndarray) -> list[list[int]]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour.ravel().tolist() for contour in contours if len(contour) >= 3]


def _dump(path: Path, **content) -> None:
    path.write_text(json.dumps(content))


def _write_coco_scenes(root: Path, name: str, split: int, number: int, height: int = 288, width: int = 384) -> None:
    categories = coco_categories()
    ids = {category["name"]: category["id"] for category in categories}
    images, instances, panoptic = [], [], []
    for i in _progress(range(1, number + 1), f"COCO {name}"):
        image, things, grounds = scene(_rng(3, split, i), height, width, COCO_THINGS, least=3, most=6)
        entry = _coco_image(i, height, width)
        _write_image(root / name / entry["file_name"], image)
        images.append(entry)
        for thing in things:
            instances.append(
                dict(
                    id=len(instances) + 1,
                    image_id=i,
                    category_id=ids[thing.name],
                    iscrowd=0,
                    area=int(thing.mask.sum()),
                    bbox=_box(thing.mask),
                    segmentation=_polygons(thing.mask),
                )
            )
        segments, label = [], np.zeros((height, width), np.int64)
        stuff = [(ids[COCO_STUFF[ground]], mask) for ground, mask in grounds.items() if mask.any()]
        for k, (category, mask) in enumerate([(ids[t.name], t.mask) for t in things] + stuff, 1):
            label[mask] = segment = 1000 * k + i % 1000
            segments.append(dict(id=segment, category_id=category, iscrowd=0, area=int(mask.sum()), bbox=_box(mask)))
        file = f"{i:012d}.png"  # the segment id is R + 256 G + 256^2 B; OpenCV writes BGR
        rgb = np.stack([label // 256**2, label // 256 % 256, label % 256], -1).astype(np.uint8)
        _write_image(root / "annotations" / f"panoptic_{name}" / file, rgb)
        panoptic.append(dict(image_id=i, file_name=file, segments_info=segments))
    _dump(
        root / "annotations" / f"instances_{name}.json",
        info={},
        licenses=[],
        images=images,
        annotations=instances,
        categories=[c for c in categories if c["isthing"]],
    )
    _dump(
        root / "annotations" / f"panoptic_{name}.json",
        info={},
        licenses=[],
        images=images,
        annotations=panoptic,
        categories=categories,
    )


# COCO's drawing order of the skeleton, 1-based indices of KEYPOINTS.
SKELETON = [
    [16, 14],
    [14, 12],
    [17, 15],
    [15, 13],
    [12, 13],
    [6, 12],
    [7, 13],
    [6, 7],
    [6, 8],
    [7, 9],
    [8, 10],
    [9, 11],
    [2, 3],
    [1, 2],
    [1, 3],
    [2, 4],
    [3, 5],
    [4, 6],
    [5, 7],
]


def _write_coco_people(root: Path, name: str, split: int, number: int, height: int = 256, width: int = 320) -> None:
    images, people, boxes = [], [], []
    for i in _progress(range(500001, 500001 + number), f"COCO people {name}"):
        rng = _rng(4, split, i)
        picture, _ = backdrop(rng, height, width)
        picture += 6 * noise(rng, height, width, 20)[..., None]
        entry = _coco_image(i, height, width)
        centers = [(0.5, 0.5)] if rng.random() < 0.5 else [(0.27, 0.5), (0.73, 0.5)]
        for cx, cy in centers:
            size = height * rng.uniform(0.7, 0.9)
            hips = ((cx + rng.uniform(-0.05, 0.05)) * width, (cy + rng.uniform(0, 0.05)) * height)
            points, mask = figure(rng, picture, hips, size)
            points = np.round(points).astype(int)
            seen = ((points >= 0) & (points < (width, height))).all(1)
            flat = np.concatenate([points * seen[:, None], 2 * seen[:, None]], 1).ravel().tolist()
            box = _box(mask)
            people.append(
                dict(
                    id=500000 + len(people) + 1,
                    image_id=i,
                    category_id=1,
                    iscrowd=0,
                    area=int(mask.sum()) * 2,
                    bbox=box,
                    segmentation=_polygons(mask),
                    keypoints=flat,
                    num_keypoints=int(seen.sum()),
                )
            )
            jitter = rng.normal(0, 0.02, 4) * (box[2], box[3], box[2], box[3])
            boxes.append(dict(image_id=i, category_id=1, bbox=(box + jitter).tolist(), score=0.99))
        _write_image(root / name / entry["file_name"], to_uint8(picture))
        images.append(entry)
    person = dict(id=1, name="person", supercategory="person", keypoints=list(KEYPOINTS), skeleton=SKELETON)
    _dump(
        root / "annotations" / f"person_keypoints_{name}.json",
        info={},
        licenses=[],
        images=images,
        annotations=people,
        categories=[person],
    )
    detections = root / "person_detection_results" / f"COCO_{name}_detections_AP_H_56_person.json"
    detections.write_text(json.dumps(boxes))


# Which writer makes the data of which data set class.
WRITERS: dict[str, Callable[..., None]] = {
    "ImageNet": write_imagenet,
    "ImageNet21k": write_imagenet,
    "CUB": write_cub,
    "ADE20KDataset": write_ade,
    "SaliencyDataset": write_saliency,
    "CocoDataset": write_coco,
    "CocoPanopticDataset": write_coco,
}


def make_demo_data(dataset_type: str, folder: str | Path, **sizes: int) -> None:
    """Generate the demo version of a data set, unless ``folder`` holds a finished one of this version.

    Args:
        dataset_type (str): Class name of the data set, a key of ``WRITERS``; a scope before it is ignored.
        folder (str | Path): Becomes the data set's root. Made aside and renamed, so it is whole or absent.
        sizes (int): Numbers of images ``train`` and ``val`` instead of the writer's own.

    Raises:
        ValueError: If there is no demo version of this data set, or ``folder`` holds something else.
    """
    name = dataset_type.rpartition(".")[2]
    if name not in WRITERS:
        raise ValueError(f"no demo data for data set '{dataset_type}'; there is some for {', '.join(WRITERS)}")
    folder = Path(folder)
    stamp = folder / ".demo.json"
    made = dict(writer=WRITERS[name].__name__, version=VERSION, seed=SEED)
    if stamp.is_file() and json.loads(stamp.read_text()) == made:
        return
    if folder.exists() and any(folder.iterdir()) and not stamp.exists():
        raise ValueError(f"{folder} holds files that are not demo data; give another --demo-root")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        os.chmod(draft, 0o755)
        WRITERS[name](draft, **sizes)
        (draft / stamp.name).write_text(json.dumps(made))
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
