"""Compute effective receptive fields (ERF, figure 8 of the paper).

With F the last feature map and x the input, the ERF is the mean over images of

    sum over input channels of |d sum_c max(F[c, h // 2, w // 2], 0) / d x|,

the contribution of every input pixel to the center of F. As in Ding et al. (arXiv 2203.06717), only positive features
count: without the maximum, the sum over the channels behind a LayerNorm would be constant.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

SHARES = (0.2, 0.3, 0.5, 0.99)  # as in Ding et al.


def compute_receptive_field(backbone: nn.Module, images: Iterable[Tensor]) -> np.ndarray:
    """Return the effective receptive field of a backbone, see the formula in the docstring of this module.

    Args:
        backbone (nn.Module): In eval mode. It returns a feature map (N, C, h, w), or a sequence whose last one is used.
        images (Iterable[Tensor]): Batches (N, 3, H, W), normalized and all of the same size.

    Returns:
        np.ndarray: Contributions (H, W, float64).

    Example:
        >>> field = compute_receptive_field(VAN("b0").eval(), [torch.rand(2, 3, 224, 224)])
        >>> field.shape
        (224, 224)
    """
    total, count = 0.0, 0
    for batch in images:
        for image in batch.split(1):  # the absolute value is taken for each image before averaging
            image = image.clone().requires_grad_()
            features = backbone(image)
            features = features if isinstance(features, Tensor) else features[-1]
            middle = features[:, :, features.shape[2] // 2, features.shape[3] // 2].relu().sum()
            (gradient,) = torch.autograd.grad(middle, image)
            total, count = total + gradient.abs().sum((0, 1)).double().cpu().numpy(), count + 1
    return total / count


def compute_area_shares(field: np.ndarray, shares: Iterable[float] = SHARES) -> dict[float, float]:
    """Return the size of the smallest centered square that contains a share of all contributions.

    Args:
        field (np.ndarray): (H, W) from :func:`compute_receptive_field`.
        shares (Iterable[float]): Shares between 0 and 1. Defaults to 20%, 30%, 50% and 99%.

    Returns:
        dict[float, float]: Area of the square divided by the area of the image, for each share.
    """
    height, width = field.shape
    sums = np.pad(field, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    areas, remaining = {}, sorted(shares)
    for reach in range(max(height, width)):
        top, bottom = max(height // 2 - reach, 0), min(height // 2 + reach + 1, height)
        left, right = max(width // 2 - reach, 0), min(width // 2 + reach + 1, width)
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        while remaining and inside >= remaining[0] * sums[-1, -1] * (1 - 1e-12):  # tolerates rounding errors
            areas[remaining.pop(0)] = (bottom - top) * (right - left) / (height * width)
    return areas


def to_log_scale(field: np.ndarray) -> np.ndarray:
    """Return ``log10(1 + field / mean(field))``, divided by its maximum, for drawings like figure 8.

    Division by the mean makes the result independent of the scale of the gradients.
    """
    scaled = np.log10(1 + field / max(field.mean(), 1e-300))
    return scaled / max(scaled.max(), 1e-12)
