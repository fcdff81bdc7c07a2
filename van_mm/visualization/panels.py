"""Draw a prediction beside its scores or legend."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from van_mm.visualization.figures import COLORS, make_figure
from van_mm.visualization.fonts import use_fonts

MIN_HEIGHT = 320  # pixels; smaller images are enlarged so that the text beside them is legible
MAX_LEGEND_ROWS = 18


def draw_beside(image: np.ndarray, draw_panel: Callable[[Axes], None]) -> np.ndarray:
    """Draw a panel to the right of an image.

    Args:
        image (np.ndarray): (H, W, 3, uint8, RGB), enlarged to a height of at least 320 pixels.
        draw_panel (Callable): Draws on the axes of the panel.

    Returns:
        np.ndarray: (H', W', 3, uint8, RGB).
    """
    dpi, height = 100, max(image.shape[0], MIN_HEIGHT)
    width = round(image.shape[1] * height / image.shape[0])
    panel_width = max(300, round(0.35 * width))
    total = width + panel_width
    figure = make_figure(figsize=(total / dpi, height / dpi), dpi=dpi)
    axis = figure.add_axes([0, 0, width / total, 1])
    axis.imshow(image, aspect="auto", interpolation="bilinear")
    axis.axis("off")
    draw_panel(figure.add_axes([width / total, 0, panel_width / total, 1]))
    with use_fonts(figure):
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def draw_score_bars(axis: Axes, top: list[dict]) -> None:
    """Draw the scores of classes as bars, the highest at the top.

    Args:
        axis (Axes): Fills its whole panel.
        top (list[dict]): ``class`` and ``score`` of each, in descending order.
    """
    axis.set(xlim=(-0.08, 1.25), ylim=(len(top) - 0.3, -0.9))
    axis.axis("off")
    for row, entry in enumerate(top):
        name = entry["class"] if len(entry["class"]) < 32 else entry["class"][:30] + "…"
        axis.barh(row + 0.2, entry["score"], 0.3, color=COLORS[0] if row == 0 else COLORS[5])
        axis.text(0, row - 0.12, name, va="bottom", fontsize=10)
        axis.text(entry["score"] + 0.02, row + 0.2, f"{entry['score']:.2f}", va="center", fontsize=9)


def draw_legend(axis: Axes, entries: list[tuple[str, Sequence[int]]]) -> None:
    """Draw names beside patches of their colors (RGB). Names beyond the eighteenth are only counted."""
    hidden = len(entries) - MAX_LEGEND_ROWS
    rows = entries[:MAX_LEGEND_ROWS] + ([(f"and {hidden} more", (255, 255, 255))] if hidden > 0 else [])
    axis.set(xlim=(0, 1), ylim=(max(len(rows), 8), 0))
    axis.axis("off")
    for row, (name, color) in enumerate(rows):
        axis.add_patch(Rectangle((0.05, row + 0.2), 0.12, 0.6, facecolor=np.array(color) / 255, edgecolor="#444444"))
        axis.text(0.22, row + 0.5, name, va="center", fontsize=10)
