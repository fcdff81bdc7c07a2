"""CARAFE: upsampling with a kernel of its own for each pixel of the result.

A pixel of the result is the weighted sum of ``kernel_size`` by ``kernel_size`` pixels around its source, with zeros
around the image. float16 and bfloat16 are computed in float32.

Source: CARAFE (https://arxiv.org/abs/1905.02188), mmcv/ops/csrc/common/cuda/carafe_naive_cuda_kernel.cuh.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .computing import get_chunk_size, get_working_dtype, untraced


@untraced
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Upsample ``features`` (N, C, H, W) into ``output`` (N, C, H * scale_factor, W * scale_factor).

    ``masks`` (N, group_size * kernel_size**2, H * scale_factor, W * scale_factor) holds the kernels of each group of
    channels.
    """
    output.copy_(reassemble(features, masks, kernel_size, group_size, scale_factor))


@untraced
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of the features and the masks to ``bottom_grad`` and ``mask_grad``."""
    gradients = differentiate_reassembly(top_grad, features, masks, kernel_size, group_size, scale_factor)
    bottom_grad.add_(gradients[0])
    mask_grad.add_(gradients[1])


@untraced
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Do as ``carafe_naive_forward``, and copy the features into ``rfeatures``, which the backward pass reads.

    ``routput`` and ``rmasks`` are not used.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


@untraced
def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of the features and the masks into ``bottom_grad`` and ``mask_grad``.

    ``rfeatures`` is what ``carafe_forward`` wrote. ``rtop_grad``, ``rbottom_grad_hs``, ``rbottom_grad`` and
    ``rmask_grad`` are not used.
    """
    gradients = differentiate_reassembly(top_grad, rfeatures, masks, kernel_size, group_size, scale_factor)
    bottom_grad.copy_(gradients[0])
    mask_grad.copy_(gradients[1])


def reassemble(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Return the upsampled features, in the precision of the computation."""
    sources = spread_pixels(features, kernel_size, scale_factor).unflatten(1, (group_size, -1))
    weights = masks.to(sources.dtype).unflatten(1, (group_size, -1))
    output = sources.new_zeros(*sources.shape[:3], *masks.shape[2:])
    for rows, tap, window in iterate_windows(output, kernel_size, scale_factor):
        output[..., rows, :].addcmul_(sources[window], weights[:, :, tap, None, rows])
    return output.flatten(1, 2)


def differentiate_reassembly(
    grad: Tensor, features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the features and the masks, in the precision of the computation."""
    sources = spread_pixels(features, kernel_size, scale_factor).unflatten(1, (group_size, -1))
    weights = masks.to(sources.dtype).unflatten(1, (group_size, -1))
    grad = grad.to(sources.dtype).unflatten(1, (group_size, -1))
    grad_sources, grad_weights = torch.zeros_like(sources), torch.zeros_like(weights)
    for rows, tap, window in iterate_windows(grad, kernel_size, scale_factor):
        part = grad[..., rows, :]
        grad_weights[:, :, tap, rows] = (part * sources[window]).sum(2)
        grad_sources[window].addcmul_(part, weights[:, :, tap, None, rows])
    return gather_pixels(grad_sources.flatten(1, 2), kernel_size, scale_factor), grad_weights.flatten(1, 2)


def spread_pixels(features: Tensor, kernel_size: int, scale_factor: int) -> Tensor:
    """Surround features (N, C, H, W) by half a kernel of zeros, and repeat every pixel in both directions."""
    margin = (kernel_size - 1) // 2
    padded = F.pad(features.to(get_working_dtype(features)), (margin, margin, margin, margin))
    return padded.repeat_interleave(scale_factor, dim=2).repeat_interleave(scale_factor, dim=3)


def gather_pixels(spread: Tensor, kernel_size: int, scale_factor: int) -> Tensor:
    """Add up the copies of every pixel that ``spread_pixels`` makes, which is its transpose."""
    margin = (kernel_size - 1) // 2
    blocks = spread.unflatten(3, (-1, scale_factor)).unflatten(2, (-1, scale_factor))
    return F.pad(blocks.sum((3, 5)), (-margin, -margin, -margin, -margin))


def iterate_windows(
    output: Tensor, kernel_size: int, scale_factor: int
) -> Iterator[tuple[slice, int, tuple[slice | type(Ellipsis), ...]]]:
    """Yield rows of the result (..., H', W'), a tap of the kernel, and the window of its sources in spread pixels."""
    height, width = output.shape[-2:]
    step = get_chunk_size(output.device, output[..., 0, :].numel())
    for start in range(0, height, step):
        end = min(start + step, height)
        for tap in range(kernel_size**2):
            top, left = (scale_factor * position for position in divmod(tap, kernel_size))
            yield slice(start, end), tap, (..., slice(top + start, top + end), slice(left, left + width))
