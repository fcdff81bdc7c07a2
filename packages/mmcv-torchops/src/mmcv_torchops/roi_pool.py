"""RoI pooling of mmcv: the maximum of the pixels in each bin, and the mean of samples in bins moved by offsets.

Coordinates are pixels, those of RoIs before ``spatial_scale``. The tensors may be of different floating-point types;
float16 and bfloat16 are computed in float32.
"""

from dataclasses import replace

import torch
import torchvision  # noqa: F401 (registers torch.ops.torchvision)
from torch import Tensor

from .computing import get_chunk_size, get_working_dtype, untraced
from .roi_align import schedule_boxes
from .roi_sampling import (
    Schedule,
    average_samples,
    average_samples_backward,
    find_neighbours,
    get_pixel_rows,
    get_sample_gradients,
    make_taps,
)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Pool features of shape (N, C, H, W) in ``rois`` of shape (n, 5): image, x1, y1, x2, y2 with x2 and y2 included.

    Writes the maxima into ``output`` of shape (n, C, pooled_height, pooled_width), and the index y * W + x of the first
    maximum into ``argmax`` of the same shape. Where a bin has no pixel or the RoI no area, they are 0 and -1.

    Source: Fast R-CNN (https://arxiv.org/abs/1504.08083), mmcv/ops/csrc/common/cuda/roi_pool_cuda_kernel.cuh.
    """
    rois = rois.to(get_working_dtype(input))
    windows = find_windows(rois, pooled_height, pooled_width, spatial_scale, input.shape[2:])
    # torchvision's operator lays out bins differently, but agrees if each window is a RoI of its own, with one bin.
    maximum, position = torch.ops.torchvision.roi_pool(input.to(windows.dtype), windows.view(-1, 5), 1.0, 1, 1)
    size = (*windows.shape[:3], input.shape[1])
    filled = (windows[..., 3:] >= windows[..., 1:3]).all(-1, keepdim=True)
    output.copy_(torch.where(filled, maximum.view(size), 0).permute(0, 3, 1, 2))
    argmax.copy_(torch.where(filled, position.view(size), -1).permute(0, 3, 1, 2))


@untraced
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of ``roi_pool_forward`` with respect to its input to ``grad_input`` of shape (N, C, H, W)."""
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    pixel = plane[..., None, None] * (height * width) + argmax.clamp(min=0)
    grad = torch.where(argmax < 0, 0, grad_output.to(get_working_dtype(grad_input)))
    total = grad.new_zeros(grad_input.numel()).scatter_add_(0, pixel.flatten(), grad.flatten())
    grad_input.add_(total.view_as(grad_input))


def find_windows(
    rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float, image_size: tuple[int, int]
) -> Tensor:
    """Return the pixels of each bin of RoIs of shape (n, 5): image, first x, first y, last x, last y.

    The result has the shape (n, pooled_height, pooled_width, 5). The last pixel is before the first one in empty bins.
    """
    image, x1, y1, x2, y2 = rois[..., None, None].unbind(1)
    y, x = y1 * spatial_scale, x1 * spatial_scale
    height, width = (y2 + 1) * spatial_scale - y, (x2 + 1) * spatial_scale - x
    top, bottom = divide_length(y, height, pooled_height, image_size[0])
    left, right = divide_length(x, width, pooled_width, image_size[1])
    windows = torch.stack(
        torch.broadcast_tensors(image, left[:, None, :], top[:, :, None], right[:, None, :], bottom[:, :, None]), dim=-1
    )
    nothing = windows.new_tensor([0, 0, 0, -1, -1])
    return torch.where(((height > 0) & (width > 0))[..., None], windows, nothing)


def divide_length(start: Tensor, length: Tensor, bins: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Divide lengths of shape (n, 1, 1) into bins: the first and last pixel of each one, of shape (n, bins)."""
    start, bin_size = start.view(-1, 1), length.view(-1, 1) / bins
    index = torch.arange(bins, device=start.device)
    first = (index * bin_size + start).float().floor().clamp(0, image_size)
    end = ((index + 1) * bin_size + start).float().ceil().clamp(0, image_size)
    return first.to(start.dtype), end.to(start.dtype) - 1


@untraced
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Average samples of features of shape (N, C, H, W) in the moved bins of ``rois`` of shape (n, 5).

    ``offset`` of shape (n, 2, pooled_height, pooled_width), x before y, moves each bin by ``gamma`` times the offset
    times the RoI's size. Without elements, nothing is moved. Writes into ``output`` of shape (n, C, pooled_height,
    pooled_width). Coordinates are shifted by half a pixel as in RoI Align with ``aligned``.

    Source: Deformable ConvNets (https://arxiv.org/abs/1703.06211),
    mmcv/ops/csrc/common/cuda/deform_roi_pool_cuda_kernel.cuh.
    """
    schedule = schedule_boxes(input, rois, (pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned=True)
    average_samples(input, move_bins(schedule, offset, gamma), output)


@untraced
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients of ``deform_roi_pool_forward`` to ``grad_input`` and ``grad_offset``.

    As in mmcv, the gradient of the offset of a sample off the image's outermost pixels differs from the exact one: it
    extrapolates before the first pixels, and vanishes along the other axis after the last ones.
    """
    schedule = schedule_boxes(input, rois, (pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned=True)
    schedule = move_bins(schedule, offset, gamma)
    average_samples_backward(grad_output, schedule, grad_input)
    if offset.numel() > 0:
        grad_shift = differentiate_positions(grad_output, input, schedule)[schedule.inverse_order]
        grad_offset.add_(gamma * grad_shift)


def move_bins(schedule: Schedule, offset: Tensor, gamma: float) -> Schedule:
    """Add the offsets, if there are any, to the position of each bin."""
    if offset.numel() == 0:
        return schedule
    grid = schedule.grid
    pooled_height, pooled_width = offset.shape[2:]
    x, y = (gamma * offset.to(grid.y.dtype)[schedule.order]).unbind(1)
    y, x = y * (grid.bin_height * pooled_height), x * (grid.bin_width * pooled_width)
    return schedule._replace(grid=replace(grid, y=grid.y + y, x=grid.x + x))


def differentiate_positions(grad_output: Tensor, features: Tensor, schedule: Schedule) -> Tensor:
    """Return the gradient of each bin's x and y in units of the RoI's size: (n, 2, pooled height, pooled width)."""
    channels, height, width = features.shape[1:]
    pooled_height, pooled_width = grad_output.shape[2:]
    rows = get_pixel_rows(features)
    grad_bins = get_sample_gradients(grad_output, schedule)
    grad_y, grad_x = grad_bins.new_zeros(2, len(grad_bins), pooled_height, pooled_width)
    for rois, sample in schedule.iterate(get_chunk_size(rows.device, grad_bins[:1].numel())):
        grid = schedule.grid.select(rois)
        grad = grad_bins[rois].view(-1, channels)
        y, x = grid.locate(sample)
        near_y, near_x = find_neighbours(y, height), find_neighbours(x, width)
        upper_left, upper_right, lower_left, lower_right = (
            (rows.index_select(0, tap.row.reshape(-1)) * grad).sum(1).view_as(y)
            for tap in make_taps(near_y, near_x, grid.first_row, width)
        )
        inside = near_y.inside & near_x.inside
        slope_y = (lower_right - upper_right) * (x - near_x.low) + (lower_left - upper_left) * (near_x.high - x)
        slope_x = (lower_right - lower_left) * (y - near_y.low) + (upper_right - upper_left) * (near_y.high - y)
        grad_y[rois] += torch.where(inside, slope_y, 0)
        grad_x[rois] += torch.where(inside, slope_x, 0)
    grad_y *= schedule.grid.bin_height * pooled_height
    grad_x *= schedule.grid.bin_width * pooled_width
    return torch.stack([grad_x, grad_y], dim=1)
