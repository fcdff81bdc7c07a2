"""Helpers of the modules that write demo data: random streams, image files, progress bars, simple images."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from van_mm.demo.drawing import draw_backdrop, draw_shape, to_uint8

SEED = 2202


def make_rng(*stream: int) -> np.random.Generator:
    """Return a generator that depends on the stream's numbers alone, so that images can be drawn in any order."""
    return np.random.default_rng((SEED, *stream))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (BGR, or one channel). The folder is created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"could not write {path}")


def track_progress(items: Iterable, what: str) -> Iterable:
    """Iterate over ``items`` with a progress bar."""
    return track(list(items), description=f"demo data: drawing {what}")


def draw_distractors(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw up to three small gray boxes, which belong to no class, into ``image`` (H, W, 3) in place."""
    for _ in range(rng.integers(0, 4)):
        x, y = (rng.integers(0, side) for side in image.shape[1::-1])
        w, h = rng.integers(6, 16, 2)
        image[y : y + h, x : x + w] = rng.uniform(40, 210)


def draw_object_image(rng: np.random.Generator, shape: str, hue: str, size: int = 128) -> np.ndarray:
    """Return an image (size, size, 3, uint8, BGR) of one object near the center, with a few distractors."""
    image, _ = draw_backdrop(rng, size, size)
    draw_distractors(rng, image)
    radius = size * rng.uniform(0.26, 0.4)
    draw_shape(rng, image, shape, hue, size / 2 + rng.uniform(-0.1, 0.1, 2) * size, radius)
    return to_uint8(image)
