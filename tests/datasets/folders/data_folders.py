"""Write small data sets in the layouts that people have."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ["cell", "dust"]


def write_image(path: Path, size=(64, 48), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.NEAREST).save(path)
    return path


def write_map(path: Path, values, size=(64, 48)) -> Path:
    """Write a label map with vertical stripes of these values, which may be colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.array(values)[np.arange(size[0]) * len(values) // size[0]]
    Image.fromarray(np.repeat(columns[None], size[1], axis=0).astype(np.uint8)).save(path)
    return path


def write_class_folders(root: Path, splits=("",), classes=("cat", "dog"), number: int = 5) -> Path:
    for split in splits:
        for name in classes:
            for i in range(number):
                write_image(root / split / name / f"{name} {i}.jpg", seed=i)
    return root


def make_boxes(seed: int) -> list[tuple[int, list[float]]]:
    """Return class and box (x, y, w, h) of two objects."""
    rng = np.random.default_rng(seed)
    return [(label, [*rng.integers(0, 20, 2).tolist(), *rng.integers(10, 25, 2).tolist()]) for label in (0, 1)]


def write_coco(root: Path, name: str, images: str, number: int = 6, **extra) -> Path:
    """Write a COCO file and its images. ``extra`` is added to each annotation; a function gets the box."""
    content = dict(images=[], annotations=[], categories=[dict(id=i + 1, name=n) for i, n in enumerate(NAMES)])
    for i in range(number):
        write_image(root / images / f"{name.rpartition('/')[2]}_{i}.jpg", seed=i)
        content["images"].append(dict(id=i, file_name=f"{name.rpartition('/')[2]}_{i}.jpg", width=64, height=48))
        for label, box in make_boxes(i):
            item = dict(id=len(content["annotations"]) + 1, image_id=i, category_id=label + 1, bbox=box)
            item |= dict(area=box[2] * box[3], iscrowd=0)
            item |= {key: value(box) if callable(value) else value for key, value in extra.items()}
            content["annotations"].append(item)
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def box_to_polygon(box) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def write_voc(root: Path, number: int = 6, lists: bool = True) -> Path:
    for i in range(number):
        write_image(root / "JPEGImages" / f"{i:03d}.jpg", seed=i)
        objects = "".join(
            f"<object><name>{NAMES[label]}</name><difficult>{int(i == 0)}</difficult><bndbox><xmin>{x}</xmin>"
            f"<ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for label, (x, y, w, h) in make_boxes(i)
        )
        path = root / "Annotations" / f"{i:03d}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<annotation><filename>other.jpg</filename>{objects}</annotation>")
    if lists:
        (root / "ImageSets/Main").mkdir(parents=True)
        (root / "ImageSets/Main/train.txt").write_text("".join(f"{i:03d}\n" for i in range(number - 2)))
        (root / "ImageSets/Main/val.txt").write_text("".join(f"{i:03d}\n" for i in range(number - 2, number)))
    return root


def write_yolo(root: Path, layout: str = "{split}/images/{i}.jpg", number: int = 4, polygons: bool = False) -> Path:
    for split in ("train", "valid"):
        for i in range(number):
            image = write_image(root / layout.format(split=split, i=i), seed=i)
            label = root / layout.format(split=split, i=i).replace("images", "labels").replace(".jpg", ".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            lines = []
            for kind, (x, y, w, h) in make_boxes(i):
                values = [(x + w / 2) / 64, (y + h / 2) / 48, w / 64, h / 48]
                if polygons:
                    corners = box_to_polygon((x, y, w, h))[0]
                    values = [value / side for value, side in zip(corners, (64, 48) * 4, strict=True)]
                lines.append(f"{kind} {' '.join(f'{value:.6f}' for value in values)}")
            label.write_text("\n".join(lines) + "\n")
    text = f"names: {{0: {NAMES[0]}, 1: {NAMES[1]}}}\ntrain: ../train/images\nval: ../valid/images\n"
    (root / "data.yaml").write_text(text)
    return image.parents[1]
