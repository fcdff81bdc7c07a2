"""Matplotlib figures that never touch pyplot: colors, subplots, image grids, heat maps over images.

pyplot would choose a back end for the whole process. Figures made here are always drawn by Agg.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from van_mm.visualization.fonts import use_fonts

# The palette of Okabe and Ito, which color-blind readers can tell apart.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#f0e442")
MARKERS = "osD^vPX*"
STYLE = {"font.size": 11, "axes.grid": True, "grid.alpha": 0.3}


def make_figure(**options) -> Figure:
    """Return an empty figure that Agg draws. The options are those of ``matplotlib.figure.Figure``."""
    figure = Figure(**options)
    FigureCanvasAgg(figure)
    return figure


def make_subplots(rows: int, columns: int, figsize: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """Return a figure in the suite's style and its axes.

    Args:
        rows (int): Number of rows.
        columns (int): Number of columns.
        figsize (tuple[float, float]): Width and height in inches.
        options: Passed to ``Figure.subplots``.

    Returns:
        tuple[Figure, np.ndarray]: The figure, and its axes as an array (rows, columns).
    """
    with rc_context(STYLE):
        figure = make_figure(figsize=figsize, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(figure: Figure, file: str | Path) -> None:
    """Write a figure as PNG. The folder is created if it does not exist."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE), use_fonts(figure):
        figure.savefig(file, dpi=110)


def save_image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    file: str | Path,
    columns: Sequence[str] | None = None,
    titles: Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    side: float = 2.4,
) -> None:
    """Write a grid of images as PNG.

    Args:
        rows (Sequence[Sequence[np.ndarray]]): Images (H, W, 3, uint8, RGB) by row.
        file (str | Path): The PNG.
        columns (Sequence[str], optional): Titles of the columns.
        titles (Sequence[Sequence[str]], optional): A title for each image, instead of ``columns``.
        labels (Sequence[str], optional): Labels of the rows.
        side (float): Width of an image in inches. Defaults to 2.4.
    """
    width = max(len(row) for row in rows)
    title_lines = max(text.count("\n") + 1 for row in titles for text in row) if titles else 1
    heights = [max(image.shape[0] / image.shape[1] for image in row) for row in rows]
    figsize = (
        side * width + (0.4 if labels else 0),
        side * sum(heights) + (0.15 + 0.17 * title_lines) * (len(rows) if titles else 1),
    )
    figure, axes = make_subplots(len(rows), width, figsize, gridspec_kw=dict(height_ratios=heights))
    for r, row in enumerate(rows):
        for c, axis in enumerate(axes[r]):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            for spine in axis.spines.values():
                spine.set_visible(False)
            if c < len(row):
                axis.imshow(row[c], interpolation="nearest")
                text = titles[r][c] if titles else columns[c] if columns and r == 0 else ""
                axis.set_title(text, fontsize=9)
        if labels:
            axes[r][0].set_ylabel(labels[r], fontsize=9)
    save_figure(figure, file)


def overlay_heatmap(
    image: np.ndarray, heat: np.ndarray, colormap: str = "inferno", strength: float = 0.55
) -> np.ndarray:
    """Draw a heat map over an image.

    Args:
        image (np.ndarray): (H, W, 3, uint8, RGB).
        heat (np.ndarray): (h, w). It is resized to the image, and its range is stretched to the whole colormap.
        colormap (str): A colormap of matplotlib. Defaults to 'inferno'.
        strength (float): Opacity of the heat map, 0 to 1. Defaults to 0.55.

    Returns:
        np.ndarray: (H, W, 3, uint8, RGB).
    """
    heat = cv2.resize(heat.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    low, high = heat.min(), heat.max()
    colors = colormaps[colormap]((heat - low) / max(high - low, 1e-12))[..., :3] * 255
    return ((1 - strength) * image + strength * colors).round().astype(np.uint8)
