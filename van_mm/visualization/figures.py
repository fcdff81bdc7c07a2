"""Matplotlib figures: colours that colour-blind readers tell apart, grids of pictures, heat over a picture."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import colormaps, pyplot  # noqa: E402  after the backend is chosen

# Okabe and Ito's.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#f0e442")
MARKERS = "osD^vPX*"
pyplot.rcParams.update({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3, "image.interpolation": "nearest"})


def save(figure, file: str | Path) -> None:
    """Write a figure as PNG, its folder with it, and forget it."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    file: str | Path,
    columns: Sequence[str] | None = None,
    titles: Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    side: float = 2.4,
) -> None:
    """Save pictures (H, W, 3, uint8, RGB) as a grid.

    Args:
        rows (Sequence): Of pictures.
        file (str | Path): A PNG.
        columns (Sequence[str], optional): Above the first row.
        titles (Sequence[Sequence[str]], optional): Above each picture, instead.
        labels (Sequence[str], optional): At the left of each row.
        side (float): Width of a picture in inches. Defaults to 2.4.
    """
    width = max(len(row) for row in rows)
    lines = max(text.count("\n") + 1 for row in titles for text in row) if titles else 1
    heights = [max(picture.shape[0] / picture.shape[1] for picture in row) for row in rows]
    figure, axes = pyplot.subplots(
        len(rows),
        width,
        figsize=(
            side * width + (0.4 if labels else 0),
            side * sum(heights) + (0.15 + 0.17 * lines) * (len(rows) if titles else 1),
        ),
        gridspec_kw=dict(height_ratios=heights),
        layout="constrained",
        squeeze=False,
    )
    for r, row in enumerate(rows):
        for c, axis in enumerate(axes[r]):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            for spine in axis.spines.values():
                spine.set_visible(False)
            if c < len(row):
                axis.imshow(row[c])
                text = titles[r][c] if titles else columns[c] if columns and r == 0 else ""
                axis.set_title(text, fontsize=9)
        if labels:
            axes[r][0].set_ylabel(labels[r], fontsize=9)
    save(figure, file)


def heat_over(image: np.ndarray, heat: np.ndarray, colormap: str = "inferno", strength: float = 0.55) -> np.ndarray:
    """``image`` (H, W, 3, uint8, RGB) under ``heat`` (h, w) resized to it, from its least to its greatest value."""
    heat = cv2.resize(heat.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    low, high = heat.min(), heat.max()
    colours = colormaps[colormap]((heat - low) / max(high - low, 1e-12))[..., :3] * 255
    return ((1 - strength) * image + strength * colours).round().astype(np.uint8)
