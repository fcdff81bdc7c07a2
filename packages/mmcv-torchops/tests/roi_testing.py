"""Features for the tests of the RoI operators, and slow references of their samples, in loops."""

import math
from collections.abc import Iterator

import torch


def make_features(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return random features of two images with three channels."""
    return torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def interpolate(feature: torch.Tensor, y: float | torch.Tensor, x: float | torch.Tensor) -> torch.Tensor:
    """Return the channels of a feature of shape (C, H, W) at a position; zeros beyond one pixel off the image."""
    height, width = feature.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros_like(feature[:, 0, 0])
    (top, bottom, down), (left, right, across) = (
        (low, min(low + 1, size - 1), position - low)
        for position, size in ((min(max(y, 0), height - 1), height), (min(max(x, 0), width - 1), width))
        for low in [int(position)]
    )
    upper = (1 - across) * feature[:, top, left] + across * feature[:, top, right]
    lower = (1 - across) * feature[:, bottom, left] + across * feature[:, bottom, right]
    return (1 - down) * upper + down * lower


def divide_bin(start: float, length: float, bins: int, index: int, sampling_ratio: int) -> Iterator[float]:
    """Yield the positions of the samples along one axis of a bin."""
    size = length / bins
    count = sampling_ratio if sampling_ratio > 0 else math.ceil(size)
    for sample in range(count):
        yield start + index * size + (sample + 0.5) * size / count
