"""Bilinear samples of feature maps with zeros around them, for the deformable operators.

Feature maps are handled as a matrix with one row of channels for each pixel, in float32 or float64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def find_corners(y: Tensor, x: Tensor, height: Tensor | int, width: Tensor | int) -> tuple[Tensor, Tensor]:
    """Return the four pixels around positions, y * width + x, and their weights, both of shape (..., 4).

    ``height`` and ``width`` broadcast to the shape of ``y`` and ``x``. Pixels off the map have the number and weight 0,
    and so have all four if the position is a pixel or more off the map, or not a number. The weights are
    differentiable; at the position of a pixel, their derivative is the one towards larger coordinates.
    """
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    top, left = y.detach().floor(), x.detach().floor()
    down, across = y - top, x - left
    is_top, is_bottom = inside & (top >= 0), inside & (top < height - 1)
    is_left, is_right = left >= 0, left < width - 1
    upper_left = top.long() * width + left.long()
    pixel = torch.stack([upper_left, upper_left + 1, upper_left + width, upper_left + width + 1], dim=-1)
    weight = torch.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across], dim=-1)
    exists = torch.stack([is_top & is_left, is_top & is_right, is_bottom & is_left, is_bottom & is_right], dim=-1)
    return torch.where(exists, pixel, 0), torch.where(exists, weight, 0)


def blend_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted sums of rows (M, C) that ``index`` (B, J) names, with ``weight`` (B, J): shape (B, C)."""
    if rows.device.type == "mps":  # where not every version of PyTorch has embedding_bag
        return sum(rows[i] * w[:, None] for i, w in zip(index.unbind(1), weight.unbind(1), strict=True))
    return F.embedding_bag(index, rows, mode="sum", per_sample_weights=weight)
