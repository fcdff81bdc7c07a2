"""Effective receptive fields (figure 8)."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

SHARES = (0.2, 0.3, 0.5, 0.99)


def receptive_field(backbone: nn.Module, images: Iterable[Tensor]) -> np.ndarray:
    """What each input pixel contributes to the middle of the last map: the absolute gradient, averaged over images.

    Args:
        backbone (nn.Module): In eval mode; returns a map (N, C, h, w) or a sequence of them, the last of which counts.
        images (Iterable[Tensor]): Batches (N, 3, H, W), normalised, all of one size.

    Returns:
        np.ndarray: (H, W), the sum over the input's channels of |d sum_c max(F[c, h // 2, w // 2], 0) / d x|. Of
        positive features alone, as in Ding et al. (arXiv 2203.06717): the plain sum behind a LayerNorm is constant.
    """
    total, count = 0.0, 0
    for batch in images:
        for image in batch.split(1):  # the absolute value is of each image's own gradient
            image = image.clone().requires_grad_()
            features = backbone(image)
            features = features if isinstance(features, Tensor) else features[-1]
            middle = features[:, :, features.shape[2] // 2, features.shape[3] // 2].relu().sum()
            (gradient,) = torch.autograd.grad(middle, image)
            total, count = total + gradient.abs().sum((0, 1)).double().cpu().numpy(), count + 1
    return total / count


def areas(field: np.ndarray, shares: Iterable[float] = SHARES) -> dict[float, float]:
    """How large a square around the middle has to be to hold a share of all contributions.

    Args:
        field (np.ndarray): (H, W) from :func:`receptive_field`.
        shares (Iterable[float]): Of the whole. Defaults to 20, 30, 50 and 99%.

    Returns:
        dict[float, float]: Area of the square by the image's, for each share.
    """
    height, width = field.shape
    sums = np.pad(field, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    found, wanted = {}, sorted(shares)
    for reach in range(max(height, width)):
        top, bottom = max(height // 2 - reach, 0), min(height // 2 + reach + 1, height)
        left, right = max(width // 2 - reach, 0), min(width // 2 + reach + 1, width)
        held = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        while wanted and held >= wanted[0] * sums[-1, -1] * (1 - 1e-12):
            found[wanted.pop(0)] = (bottom - top) * (right - left) / (height * width)
    return found


def log_scale(field: np.ndarray) -> np.ndarray:
    """A field on figure 8's scale: log10(1 + contribution), by its largest value; from 0 to 1."""
    scaled = np.log10(1 + field / max(field.mean(), 1e-300))
    return scaled / max(scaled.max(), 1e-12)
