"""Generate the demo versions of ADE20K and of the saliency data sets."""

from pathlib import Path

import numpy as np

from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS
from van_mm.demo.drawing import HUES, SHAPES, draw_backdrop, draw_scene, draw_shape, to_uint8
from van_mm.demo.writing import draw_distractors, make_rng, track_progress, write_image

# The object classes of the demo: name -> (shape, hue).
ADE_THINGS = {
    "ball": ("disc", "red"),
    "plate": ("disc", "blue"),
    "box": ("square", "cyan"),
    "signboard": ("square", "yellow"),
    "tent": ("triangle", "green"),
    "flag": ("star", "purple"),
}
# Pixel values in ADE20K's annotation PNGs. Classes are 1 to 150, and 0 is "other".
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


def write_ade(root: Path, train: int = 240, val: int = 40, size: tuple[int, int] = (256, 320)) -> None:
    """Write images and label maps in ADE20K's layout.

    Args:
        root (Path): Root of the data set.
        train (int): Number of training images. Defaults to 240.
        val (int): Number of validation images. Defaults to 40.
        size (tuple[int, int]): Height and width of the images. Defaults to (256, 320).
    """
    for split, (name, number) in enumerate((("training", train), ("validation", val))):
        for i in track_progress(range(1, number + 1), f"ADE20K {name}"):
            image, things, grounds = draw_scene(make_rng(2, split, i), *size, ADE_THINGS)
            label = np.zeros(size, np.uint8)
            for ground, mask in grounds.items():
                label[mask] = ADE_IDS[ground]
            for thing in things:
                label[thing.mask] = ADE_IDS[thing.name]
            file = f"ADE_{'train' if split == 0 else 'val'}_{i:08d}"
            write_image(root / "images" / name / f"{file}.jpg", image)
            write_image(root / "annotations" / name / f"{file}.png", label)


def write_saliency(root: Path, train: int = 240, val: int = 40) -> None:
    """Write images of one or two objects, and their masks, in the layouts of DUTS, DUT-OMRON and PASCAL-S.

    Args:
        root (Path): Root of the data set.
        train (int): Number of training images. Defaults to 240.
        val (int): Number of images of each test set. Defaults to 40.
    """
    for number, (subset, layout) in enumerate(SALIENCY_LAYOUTS.items()):
        for i in track_progress(range(train if subset == "DUTS-TR" else val), subset):
            rng = make_rng(5, number, i)
            height, width = (int(side) for side in rng.integers(160, 300, 2))
            image, _ = draw_backdrop(rng, height, width)
            draw_distractors(rng, image)
            salient = np.zeros((height, width), bool)
            for _ in range(rng.integers(1, 3)):
                radius = min(height, width) * rng.uniform(0.15, 0.3)
                center = rng.uniform((radius, radius), (width - radius, height - radius))
                salient |= draw_shape(rng, image, str(rng.choice(SHAPES)), str(rng.choice(list(HUES))), center, radius)
            write_image(root / layout.images / f"{subset}_{i:05d}.jpg", to_uint8(image))
            write_image(root / layout.masks / f"{subset}_{i:05d}.png", 255 * salient.astype(np.uint8))
