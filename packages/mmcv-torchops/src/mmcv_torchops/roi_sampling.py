"""Bilinear sampling of feature maps at the positions that mmcv's RoI operators use.

Features are handled as a matrix with one row of channels for each pixel of each image, in float32 or float64.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from .computing import get_chunk_size, get_working_dtype


def get_pixel_rows(features: Tensor) -> Tensor:
    """Return features of shape (N, C, H, W) as a matrix of shape (N * H * W, C)."""
    return features.to(get_working_dtype(features)).permute(0, 2, 3, 1).contiguous().view(-1, features.shape[1])


def make_zero_rows(features: Tensor) -> Tensor:
    """Return zeros in the shape and type of ``get_pixel_rows``."""
    batch, channels, height, width = features.shape
    return features.new_zeros(batch * height * width, channels, dtype=get_working_dtype(features))


def add_pixel_rows(features: Tensor, rows: Tensor) -> None:
    """Add a matrix of shape (N * H * W, C) to features of shape (N, C, H, W), in place."""
    batch, channels, height, width = features.shape
    features.add_(rows.view(batch, height, width, channels).permute(0, 3, 1, 2))


class Neighbours(NamedTuple):
    """The pixels around positions along one axis."""

    low: Tensor
    high: Tensor
    fraction: Tensor  # the weight of `high`
    inside: Tensor  # whether the position is at most one pixel off the image


class Tap(NamedTuple):
    """One of the four pixels that a bilinear sample is made of: its row in the matrix of pixels, and its weight."""

    row: Tensor
    weight: Tensor


def find_neighbours(position: Tensor, size: int) -> Neighbours:
    """Find the pixels around positions; a position at most one pixel off the image counts as the nearest pixel."""
    inside = (position >= -1) & (position <= size)
    position = torch.where(inside, position, 0).clamp(0, size - 1)
    low = position.long()
    return Neighbours(low, (low + 1).clamp(max=size - 1), position - low, inside)


def make_taps(y: Neighbours, x: Neighbours, first_row: Tensor, width: int) -> list[Tap]:
    """Combine the neighbours along both axes, with weights of 0 off the image. All shapes broadcast.

    The order of the pixels is: upper left, upper right, lower left, lower right.
    """
    inside = y.inside & x.inside
    return [
        Tap(first_row + y_index * width + x_index, y_weight * x_weight * inside)
        for y_index, y_weight in ((y.low, 1 - y.fraction), (y.high, y.fraction))
        for x_index, x_weight in ((x.low, 1 - x.fraction), (x.high, x.fraction))
    ]


def sample_rows(rows: Tensor, taps: Sequence[Tap]) -> Tensor:
    """Return the bilinear samples, of shape (number of positions, C).

    Products and sums are rounded one by one, so that equal samples of the original operators are equal here.
    """
    products = (rows.index_select(0, row.reshape(-1)).mul_(weight.reshape(-1, 1)) for row, weight in taps)
    total = next(products)
    for product in products:
        total.add_(product)
    return total


def scatter_samples(rows: Tensor, taps: Sequence[Tap], values: Tensor) -> None:
    """Add the gradients of samples that are at another position in each channel to a matrix of pixels, in place.

    The rows of the taps and the values have the shape (number of samples, C).
    """
    channels = rows.shape[1]
    channel = torch.arange(channels, device=rows.device)
    flat_rows = rows.view(-1)
    for row, weight in taps:
        flat_rows.scatter_add_(0, (row * channels + channel).flatten(), (values * weight).flatten())


@dataclass
class SampleGrid:
    """The sampling positions of n RoIs, whose bins are each divided into a grid with one sample in each cell's centre.

    The other tensors have n items in the first dimension and broadcast to (n, pooled height, pooled width).
    """

    first_row: Tensor  # the first pixel of the RoI's image in the matrix of pixels
    y: Tensor  # the upper left corner of each bin
    x: Tensor
    bin_height: Tensor
    bin_width: Tensor
    rows: Tensor  # the size of the grid in each bin
    columns: Tensor

    def select(self, rois: Tensor | slice) -> "SampleGrid":
        """Return the grid of some of the RoIs."""
        return type(self)(**{field.name: getattr(self, field.name)[rois] for field in fields(self)})

    def locate(self, sample: int) -> tuple[Tensor, Tensor]:
        """Return y and x of a sample in each bin. Samples are numbered row by row."""
        row = sample // self.columns
        column = sample - row * self.columns
        y = self.y + (row + 0.5) * self.bin_height / self.rows
        x = self.x + (column + 0.5) * self.bin_width / self.columns
        return y, x

    def count(self) -> Tensor:
        """Return the number of samples in each bin, of shape (n, 1, 1)."""
        return self.rows * self.columns


def count_cells(length: Tensor, bins: int, sampling_ratio: int) -> Tensor:
    """Return the number of samples along one axis of a bin: about one for each pixel if ``sampling_ratio`` is 0."""
    if sampling_ratio > 0:
        return torch.full_like(length, sampling_ratio)
    return (length / bins).float().ceil().clamp(min=0).nan_to_num(nan=0.0).to(length.dtype)


class Schedule(NamedTuple):
    """The RoIs in the order of their number of samples, the largest number first."""

    grid: SampleGrid
    counts: list[int]
    order: Tensor | slice
    inverse_order: Tensor | slice

    def iterate(self, rois_per_chunk: int) -> Iterator[tuple[slice, int]]:
        """Yield each sample's number with the RoIs that have such a sample, a chunk of RoIs at a time."""
        for start in range(0, len(self.counts), rois_per_chunk):
            counts = self.counts[start : start + rois_per_chunk]
            active = len(counts)
            for sample in range(counts[0]):
                while counts[active - 1] <= sample:
                    active -= 1
                yield slice(start, start + active), sample


def make_schedule(grid: SampleGrid, sampling_ratio: int) -> Schedule:
    """Sort the RoIs by their number of samples, which is read back from an accelerator if ``sampling_ratio`` is 0."""
    if sampling_ratio > 0:
        return Schedule(grid, [sampling_ratio**2] * len(grid.first_row), slice(None), slice(None))
    counts, order = grid.count().flatten().sort(descending=True)
    return Schedule(grid.select(order), counts.long().tolist(), order, order.argsort())


def average_samples(features: Tensor, schedule: Schedule, output: Tensor) -> None:
    """Write the mean of each bin's samples into ``output`` of shape (n, C, pooled height, pooled width), 0 for none."""
    num_rois, channels, pooled_height, pooled_width = output.shape
    rows = get_pixel_rows(features)
    total = rows.new_zeros(num_rois, pooled_height * pooled_width, channels)
    for rois, sample in schedule.iterate(get_chunk_size(rows.device, total[:1].numel())):
        part = total[rois].view(-1, channels)
        for row, weight in locate_taps(features, schedule.grid.select(rois), sample):
            part.addcmul_(rows.index_select(0, row.reshape(-1)), weight.reshape(-1, 1))
    mean = total / schedule.grid.count().clamp(min=1)
    mean = mean[schedule.inverse_order].view(num_rois, pooled_height, pooled_width, channels)
    output.copy_(mean.permute(0, 3, 1, 2))


def average_samples_backward(grad_output: Tensor, schedule: Schedule, grad_input: Tensor) -> None:
    """Add the gradient of the mean of each bin's samples to ``grad_input`` of shape (N, C, H, W)."""
    channels = grad_input.shape[1]
    grad_bins = get_sample_gradients(grad_output, schedule)
    grad_rows = make_zero_rows(grad_input)
    for rois, sample in schedule.iterate(get_chunk_size(grad_rows.device, grad_bins[:1].numel())):
        part = grad_bins[rois].view(-1, channels)
        for row, weight in locate_taps(grad_input, schedule.grid.select(rois), sample):
            grad_rows.index_add_(0, row.reshape(-1), part * weight.reshape(-1, 1))
    add_pixel_rows(grad_input, grad_rows)


def locate_taps(features: Tensor, grid: SampleGrid, sample: int) -> list[Tap]:
    """Return the pixels of one sample in each bin. Only the shape of ``features``, (N, C, H, W), is used."""
    height, width = features.shape[2:]
    y, x = grid.locate(sample)
    return make_taps(find_neighbours(y, height), find_neighbours(x, width), grid.first_row, width)


def get_sample_gradients(grad_output: Tensor, schedule: Schedule) -> Tensor:
    """Return the gradient of every sample of a bin's mean, in the schedule's order: shape (n, bins, C)."""
    grad = grad_output.to(schedule.grid.y.dtype)[schedule.order].permute(0, 2, 3, 1)
    return (grad.flatten(1, 2) / schedule.grid.count().clamp(min=1)).contiguous()
