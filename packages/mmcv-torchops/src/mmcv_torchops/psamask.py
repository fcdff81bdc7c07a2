"""The masks of point-wise spatial attention: from the positions around each pixel to the positions in the image.

Source: PSANet (https://hszhao.github.io/papers/eccv18_psanet.pdf), mmcv/ops/csrc/pytorch/cpu/psamask.cpp.
"""

import torch
from torch import Tensor

from .computing import untraced

COLLECT = 0


@untraced
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the masks ``input`` (N, h_mask * w_mask, H, W) of all pixels into ``output`` (N, H * W, H, W).

    The channels of the input are the positions around a pixel, which is itself at (half_h_mask, half_w_mask). Those of
    the output are the positions in the image if ``psa_type`` is 0, to collect. Otherwise, to distribute, they are the
    pixels, and the positions are the last two dimensions. Positions beyond the mask of a pixel are left as they are.
    """
    y, x, row, column = (torch.arange(size, device=input.device) for size in 2 * (h_feature, w_feature))
    masks = input.unflatten(1, (h_mask, w_mask))
    copy_pixelwise(
        masks,
        y[:, None] - row + half_h_mask,
        x[:, None] - column + half_w_mask,
        view_positions_first(output, psa_type, h_feature, w_feature),
    )


@untraced
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient of ``psamask_forward`` into ``grad_input``, but for positions off the image."""
    y, x, row, column = (
        torch.arange(size, device=grad_output.device) for size in (h_mask, w_mask, h_feature, w_feature)
    )
    copy_pixelwise(
        view_positions_first(grad_output, psa_type, h_feature, w_feature),
        y[:, None] + row - half_h_mask,
        x[:, None] + column - half_w_mask,
        grad_input.unflatten(1, (h_mask, w_mask)),
    )


def view_positions_first(attention: Tensor, psa_type: int, height: int, width: int) -> Tensor:
    """Return a view of shape (N, y, x, H, W), for positions y and x of the pixels."""
    attention = attention.unflatten(1, (height, width))
    return attention if psa_type == COLLECT else attention.permute(0, 3, 4, 1, 2)


def copy_pixelwise(source: Tensor, y: Tensor, x: Tensor, target: Tensor) -> None:
    """Copy from ``source`` (N, a, b, H, W) to ``target`` (N, c, d, H, W), at each pixel from other positions.

    The positions are ``y`` (c, H) and ``x`` (d, W). Where the source has no such position, the target is left as it is.
    """
    y, x = y[:, None, :, None], x[:, None, :]
    exists = (y >= 0) & (y < source.shape[1]) & (x >= 0) & (x < source.shape[2])
    row, column = (torch.arange(size, device=source.device) for size in source.shape[3:])
    values = source[:, y.clamp(0, source.shape[1] - 1), x.clamp(0, source.shape[2] - 1), row[:, None], column]
    target.copy_(torch.where(exists, values, target))
