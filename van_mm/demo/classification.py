"""Generate the demo versions of ImageNet-1K and CUB-200-2011."""

from pathlib import Path

import numpy as np

from van_mm.demo.drawing import HUES, SHAPES, to_uint8
from van_mm.demo.writing import draw_object_image, make_rng, track_progress, write_image

# The ImageNet-1K classes of the demo: synset -> (label, shape, hue).
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


def write_imagenet(root: Path, train: int = 100, val: int = 20) -> None:
    """Write images of eight classes in ImageNet-1K's layout.

    Args:
        root (Path): Root of the data set.
        train (int): Number of training images of each class. Defaults to 100.
        val (int): Number of validation images of each class. Defaults to 20.
    """
    (root / "meta").mkdir(parents=True)
    for split, (name, number) in enumerate((("train", train), ("val", val))):
        lines = []
        for synset, (label, shape, hue) in track_progress(IMAGENET.items(), f"ImageNet {name}"):
            for i in range(number):
                file = f"{synset}/{synset}_{i}.JPEG" if name == "train" else f"demo_{label:04d}_{i:04d}.JPEG"
                write_image(root / name / file, draw_object_image(make_rng(0, split, label, i), shape, hue))
                lines.append(f"{file} {label}\n")
        (root / "meta" / f"{name}.txt").write_text("".join(lines))


def write_cub(root: Path, train: int = 8, val: int = 2) -> None:
    """Write images of 200 classes in CUB-200-2011's layout. Each class is a combination of shape, hue and tint.

    Args:
        root (Path): Root of the data set.
        train (int): Number of training images of each class. Defaults to 8.
        val (int): Number of test images of each class. Defaults to 2.
    """
    appearances = [(shape, hue, tint) for tint in range(7) for hue in HUES for shape in SHAPES][:200]
    index = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    count = 0
    for label, (shape, hue, tint) in enumerate(track_progress(appearances, "CUB-200"), 1):
        folder = f"{label:03d}.Demo_{shape}_{hue}_{tint}"
        index["classes"].append(f"{label} {folder}\n")
        for i in range(train + val):
            count += 1
            image = draw_object_image(make_rng(1, label, i), shape, hue).astype(np.float32)
            image = np.roll(image, tint % 3, axis=2) * (1 - 0.15 * (tint // 3))  # rotate the channels and darken
            file = f"{folder}/Demo_{i:04d}_{count}.jpg"
            write_image(root / "images" / file, to_uint8(image))
            index["images"].append(f"{count} {file}\n")
            index["image_class_labels"].append(f"{count} {label}\n")
            index["train_test_split"].append(f"{count} {int(i < train)}\n")
    for name, lines in index.items():
        (root / f"{name}.txt").write_text("".join(lines))
