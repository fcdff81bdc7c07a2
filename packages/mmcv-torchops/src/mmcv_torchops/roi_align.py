"""RoI Align of mmcv: the average or the maximum of bilinear samples in the bins of upright or rotated boxes.

Coordinates are pixels, those of RoIs before ``spatial_scale``. The tensors may be of different floating-point types;
float16 and bfloat16 are computed in float32.
"""

from dataclasses import dataclass

import torch
import torchvision  # noqa: F401 (registers torch.ops.torchvision)
from torch import Tensor

from .computing import get_chunk_size, get_working_dtype, untraced
from .roi_sampling import (
    SampleGrid,
    Schedule,
    add_pixel_rows,
    average_samples,
    average_samples_backward,
    count_cells,
    find_neighbours,
    get_pixel_rows,
    make_schedule,
    make_taps,
    make_zero_rows,
    sample_rows,
    scatter_samples,
)

MAX_POOL = 0
# The result of mmcv's max mode on the CPU without any larger sample, also without any sample.
LOWEST_MAXIMUM = -10000.0


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool features of shape (N, C, H, W) in ``rois`` of shape (n, 5): image, x1, y1, x2, y2.

    Writes into ``output`` of shape (n, C, aligned_height, aligned_width): the maximum for ``pool_mode`` 0, with the
    position of its first sample in ``argmax_y`` and ``argmax_x`` (-1 if no sample is above -10000, which is the result
    then), the mean for ``pool_mode`` 1. With ``aligned``, coordinates are shifted by half a pixel; without, RoIs are at
    least one pixel wide and high. RoIs of negative size are not refused.

    Source: Mask R-CNN (https://arxiv.org/abs/1703.06870), mmcv/ops/csrc/pytorch/cpu/roi_align.cpp.
    """
    pooled_size = aligned_height, aligned_width
    if pool_mode == MAX_POOL:
        maximise_samples(input, rois, output, argmax_y, argmax_x, pooled_size, spatial_scale, sampling_ratio, aligned)
    else:
        dtype = get_working_dtype(input)
        boxes = collapse_negative_boxes(rois, sampling_ratio).to(dtype)
        mean = torch.ops.torchvision.roi_align(
            input.to(dtype), boxes, spatial_scale, *pooled_size, sampling_ratio, aligned
        )
        output.copy_(mean)


@untraced
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of ``roi_align_forward`` with respect to its input to ``grad_input`` of shape (N, C, H, W).

    For ``pool_mode`` 0, the gradient goes to the positions of ``argmax_y`` and ``argmax_x``, as precise as their type.
    """
    pooled_size = aligned_height, aligned_width
    if pool_mode == MAX_POOL:
        maximise_samples_backward(grad_output, rois, argmax_y, argmax_x, grad_input)
    elif torch.are_deterministic_algorithms_enabled():  # torchvision's operator refuses to run on accelerators then
        schedule = schedule_boxes(grad_input, rois, pooled_size, spatial_scale, sampling_ratio, aligned)
        average_samples_backward(grad_output, schedule, grad_input)
    else:
        dtype = get_working_dtype(grad_input)
        boxes = collapse_negative_boxes(rois, sampling_ratio).to(dtype)
        grad = torch.ops.torchvision._roi_align_backward(
            grad_output.to(dtype), boxes, spatial_scale, *pooled_size, *grad_input.shape, sampling_ratio, aligned
        )
        grad_input.add_(grad)


@untraced
def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Pool features of shape (N, C, H, W) in ``rois`` of shape (n, 6): image, centre x, y, width, height, angle.

    Writes the means of the samples into ``output`` of shape (n, C, pooled_height, pooled_width). Angles are in radians
    and turn the RoI from the x axis against the y axis (counterclockwise on a screen), or towards it if ``clockwise``.
    ``aligned`` is as for ``roi_align_forward``.

    Source: mmcv/ops/csrc/pytorch/cpu/roi_align_rotated.cpp.
    """
    pooled_size = pooled_height, pooled_width
    schedule = schedule_rotated_boxes(input, rois, pooled_size, spatial_scale, sampling_ratio, aligned, clockwise)
    average_samples(input, schedule, output)


@untraced
def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    /,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Add the gradient of ``roi_align_rotated_forward`` with respect to its input to ``grad_input``.

    The tensors are positional only: mmcv's names of these arguments do not match their order.
    """
    pooled_size = pooled_height, pooled_width
    schedule = schedule_rotated_boxes(grad_input, rois, pooled_size, spatial_scale, sampling_ratio, aligned, clockwise)
    average_samples_backward(grad_output, schedule, grad_input)


def collapse_negative_boxes(rois: Tensor, sampling_ratio: int) -> Tensor:
    """Give RoIs of negative size a size of 0 where their size determines the number of samples, which is 0 for both."""
    if sampling_ratio > 0:
        return rois
    return torch.cat([rois[:, :3], torch.maximum(rois[:, 1:3], rois[:, 3:])], dim=1)


def schedule_boxes(
    features: Tensor,
    rois: Tensor,
    pooled_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Schedule:
    """Lay out the samples of RoIs of shape (n, 5). Only the shape and type of ``features`` are used."""
    image, x1, y1, x2, y2 = rois.to(get_working_dtype(features))[..., None, None].unbind(1)
    offset = 0.5 if aligned else 0.0
    y, x = y1 * spatial_scale - offset, x1 * spatial_scale - offset
    height, width = (y2 * spatial_scale - offset) - y, (x2 * spatial_scale - offset) - x
    if not aligned:
        height, width = height.clamp(min=1), width.clamp(min=1)
    pooled_height, pooled_width = pooled_size
    bin_height, bin_width = height / pooled_height, width / pooled_width
    grid = SampleGrid(
        first_row=image.long() * (features.shape[2] * features.shape[3]),
        y=y + torch.arange(pooled_height, device=y.device)[:, None] * bin_height,
        x=x + torch.arange(pooled_width, device=x.device) * bin_width,
        bin_height=bin_height,
        bin_width=bin_width,
        rows=count_cells(height, pooled_height, sampling_ratio),
        columns=count_cells(width, pooled_width, sampling_ratio),
    )
    return make_schedule(grid, sampling_ratio)


@dataclass
class RotatedGrid(SampleGrid):
    """The sampling positions of rotated RoIs: those of an upright one around (0, 0), turned and moved to the centre."""

    centre_y: Tensor
    centre_x: Tensor
    cosine: Tensor
    sine: Tensor

    def locate(self, sample: int) -> tuple[Tensor, Tensor]:
        """Return y and x of a sample in each bin, of shape (n, pooled height, pooled width)."""
        y, x = super().locate(sample)
        return (
            y * self.cosine - x * self.sine + self.centre_y,
            y * self.sine + x * self.cosine + self.centre_x,
        )


def schedule_rotated_boxes(
    features: Tensor,
    rois: Tensor,
    pooled_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Schedule:
    """Lay out the samples of RoIs of shape (n, 6). Only the shape and type of ``features`` are used."""
    image, x, y, width, height, angle = rois.to(get_working_dtype(features))[..., None, None].unbind(1)
    offset = 0.5 if aligned else 0.0
    height, width = height * spatial_scale, width * spatial_scale
    if not aligned:
        height, width = height.clamp(min=1), width.clamp(min=1)
    angle = -angle if clockwise else angle
    pooled_height, pooled_width = pooled_size
    bin_height, bin_width = height / pooled_height, width / pooled_width
    grid = RotatedGrid(
        first_row=image.long() * (features.shape[2] * features.shape[3]),
        y=-height / 2 + torch.arange(pooled_height, device=y.device)[:, None] * bin_height,
        x=-width / 2 + torch.arange(pooled_width, device=x.device) * bin_width,
        bin_height=bin_height,
        bin_width=bin_width,
        rows=count_cells(height, pooled_height, sampling_ratio),
        columns=count_cells(width, pooled_width, sampling_ratio),
        centre_y=y * spatial_scale - offset,
        centre_x=x * spatial_scale - offset,
        cosine=angle.cos(),
        sine=angle.sin(),
    )
    return make_schedule(grid, sampling_ratio)


@untraced
def maximise_samples(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    pooled_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Write the largest of each bin's samples and its position; the first one of equal samples."""
    schedule = schedule_boxes(features, rois, pooled_size, spatial_scale, sampling_ratio, aligned)
    num_rois, channels, *_ = output.shape
    height, width = features.shape[2:]
    rows = get_pixel_rows(features)
    maximum = rows.new_full((num_rois, *pooled_size, channels), LOWEST_MAXIMUM)
    maximum_y, maximum_x = torch.full_like(maximum, -1), torch.full_like(maximum, -1)
    for rois_part, sample in schedule.iterate(get_chunk_size(rows.device, maximum[:1].numel())):
        grid = schedule.grid.select(rois_part)
        y, x = grid.locate(sample)
        taps = make_taps(find_neighbours(y, height), find_neighbours(x, width), grid.first_row, width)
        best = maximum[rois_part]
        value = sample_rows(rows, taps).view_as(best)
        larger = value > best
        for target, new in ((best, value), (maximum_y[rois_part], y[..., None]), (maximum_x[rois_part], x[..., None])):
            target.copy_(torch.where(larger, new, target))
    for target, values in ((output, maximum), (argmax_y, maximum_y), (argmax_x, maximum_x)):
        target.copy_(values[schedule.inverse_order].permute(0, 3, 1, 2))


def maximise_samples_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor
) -> None:
    """Add the gradient of each bin's largest sample to ``grad_input`` of shape (N, C, H, W)."""
    channels, height, width = grad_input.shape[1:]
    grad_rows = make_zero_rows(grad_input)
    first_row = rois[:, 0].long() * (height * width)
    tensors = (
        *(
            t.to(grad_rows.dtype).permute(0, 2, 3, 1).contiguous().view(-1, channels)
            for t in (grad_output, argmax_y, argmax_x)
        ),
        first_row[:, None].expand(-1, grad_output.shape[2] * grad_output.shape[3]).reshape(-1, 1),
    )
    chunk_size = get_chunk_size(grad_rows.device, channels)
    for grad, y, x, first in zip(*(tensor.split(chunk_size) for tensor in tensors), strict=True):
        taps = make_taps(find_neighbours(y, height), find_neighbours(x, width), first, width)
        scatter_samples(grad_rows, taps, torch.where(y == -1, 0, grad))
    add_pixel_rows(grad_input, grad_rows)
