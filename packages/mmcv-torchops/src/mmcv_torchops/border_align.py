"""Border Align of mmcv: the maximum of bilinear samples along each side of boxes.

All tensors may be of different floating-point types, and float16 and bfloat16 are computed in float32.
"""

import torch
from torch import Tensor

from .computing import get_chunk_size, untraced
from .roi_sampling import find_neighbours, get_pixel_rows, make_taps, make_zero_rows, sample_rows, scatter_samples


@untraced
def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int) -> None:
    """Pool features of shape (N, 4 * C, H, W) along the sides of ``boxes`` of shape (N, M, 4).

    Boxes are x1, y1, x2, y2 in pixels of the features. The sides top, left, bottom and right have C channels each and
    ``pool_size + 1`` samples, which start at the upper left corner for the first two and at the lower right corner for
    the others. Writes the maxima and the number of the first maximum into ``output`` and ``argmax_idx``, both of shape
    (N, C, M, 4).

    Source: BorderDet (https://arxiv.org/abs/2007.11056), mmcv/ops/csrc/common/cuda/border_align_cuda_kernel.cuh.
    """
    batch, channels, num_boxes, _ = output.shape
    height, width = input.shape[2:]
    rows = get_pixel_rows(split_sides(input))
    size = (batch, num_boxes, 4, channels)
    maximum = rows.new_empty(size).view(-1, channels)
    argmax = torch.zeros_like(maximum, dtype=torch.int32)
    chunk_size = get_chunk_size(rows.device, channels)
    sides = (tensor.split(chunk_size) for tensor in locate_sides(boxes.to(rows.dtype), height * width, pool_size))
    chunks = zip(maximum.split(chunk_size), argmax.split(chunk_size), *sides, strict=True)
    for best, best_index, y, x, step_y, step_x, first_row in chunks:
        for index in range(pool_size + 1):
            taps = make_taps(find_neighbours(y, height), find_neighbours(x, width), first_row, width)
            value = sample_rows(rows, taps)
            if index == 0:
                best.copy_(value)
            else:
                larger = value > best
                best.copy_(torch.where(larger, value, best))
                best_index.copy_(torch.where(larger, index, best_index))
            y, x = y + step_y, x + step_x
    output.copy_(maximum.view(size).permute(0, 3, 1, 2))
    argmax_idx.copy_(argmax.view(size).permute(0, 3, 1, 2))


@untraced
def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, pool_size: int
) -> None:
    """Add the gradient of ``border_align_forward`` to ``grad_input`` of shape (N, 4 * C, H, W)."""
    batch, channels = grad_output.shape[:2]
    height, width = grad_input.shape[2:]
    grad_rows = make_zero_rows(split_sides(grad_input))
    chunk_size = get_chunk_size(grad_rows.device, channels)
    tensors = (
        grad_output.to(grad_rows.dtype).permute(0, 2, 3, 1).contiguous().view(-1, channels),
        argmax_idx.permute(0, 2, 3, 1).contiguous().view(-1, channels),
        *(tensor[:, None] for tensor in locate_sides(boxes.to(grad_rows.dtype), height * width, pool_size)),
    )
    for grad, index, y, x, step_y, step_x, first_row in zip(*(t.split(chunk_size) for t in tensors), strict=True):
        near_y = find_neighbours(y + step_y * index, height)
        near_x = find_neighbours(x + step_x * index, width)
        scatter_samples(grad_rows, make_taps(near_y, near_x, first_row, width), grad)
    grad_input.add_(grad_rows.view(batch, 4, height, width, channels).permute(0, 1, 4, 2, 3).flatten(1, 2))


def split_sides(features: Tensor) -> Tensor:
    """Return features of shape (N, 4 * C, H, W) as one image for each side: (N * 4, C, H, W)."""
    return features.unflatten(1, (4, -1)).flatten(0, 1)


def locate_sides(boxes: Tensor, num_pixels: int, pool_size: int) -> tuple[Tensor, ...]:
    """Return y and x of the first sample of each side, the steps to the next one, and the first pixel of its image.

    The results have the shape (N * M * 4). The images are those of ``split_sides``, with ``num_pixels`` pixels each.
    """
    batch, num_boxes = boxes.shape[:2]
    x1, y1, x2, y2 = boxes.unbind(2)
    step_x, step_y = (x2 - x1) / pool_size, (y2 - y1) / pool_size
    zero = torch.zeros_like(x1)
    image = torch.arange(batch * 4, device=boxes.device).view(batch, 1, 4).expand(batch, num_boxes, 4)
    sides = (
        torch.stack([y1, y1, y2, y2], dim=2),
        torch.stack([x1, x1, x2, x2], dim=2),
        torch.stack([zero, step_y, zero, -step_y], dim=2),
        torch.stack([step_x, zero, -step_x, zero], dim=2),
        image * num_pixels,
    )
    return tuple(tensor.flatten() for tensor in sides)
