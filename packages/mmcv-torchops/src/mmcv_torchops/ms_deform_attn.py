"""Multi-scale deformable attention.

Each query sums samples of feature maps of several sizes, at positions of its own, with weights. Samples are bilinear,
with zeros around the maps. float16 and bfloat16 are computed in float32.

Source: Deformable DETR (https://arxiv.org/abs/2010.04159), mmcv/ops/csrc/common/cuda/ms_deform_attn_cuda_kernel.cuh.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .bilinear import blend_rows, find_corners
from .computing import get_chunk_size, get_working_dtype, untraced

# The elements of temporary tensors for each of the four pixels of a sample.
ELEMENTS_PER_PIXEL = 8


@untraced
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return the weighted sums of samples of ``value`` (N, S, heads, D), of shape (N, queries, heads * D).

    The S pixels of ``value`` are the rows of each level's map, of (height, width) ``value_spatial_shapes`` (levels, 2),
    which starts at ``value_level_start_index`` (levels,). ``sampling_locations`` (N, queries, heads, levels, points, 2)
    are x and y in units of the map's size. ``attention_weights`` (N, queries, heads, levels, points) weigh the samples.
    At most ``im2col_step`` images are computed at a time; it must divide N unless it is larger.
    """
    batch, num_queries, num_heads = sampling_locations.shape[:3]
    output = value.new_empty(batch, num_queries, num_heads * value.shape[3])
    for images in split_batch(sampling_locations, im2col_step):
        output[images] = attend(
            value[images],
            value_spatial_shapes,
            value_level_start_index,
            sampling_locations[images],
            attention_weights[images],
        )
    return output


@untraced
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradient to ``grad_value``, and write those of the locations and the weights."""
    for images in split_batch(sampling_locations, im2col_step):
        sources = [
            source[images].detach().requires_grad_() for source in (value, sampling_locations, attention_weights)
        ]
        with torch.enable_grad():
            output = attend(sources[0], value_spatial_shapes, value_level_start_index, *sources[1:])
        gradients = torch.autograd.grad(output, sources, grad_output[images].to(output.dtype))
        grad_value[images].add_(gradients[0])
        grad_sampling_loc[images].copy_(gradients[1])
        grad_attn_weight[images].copy_(gradients[2])


def split_batch(sampling_locations: Tensor, im2col_step: int) -> Iterator[slice]:
    """Yield the images to compute at a time, at most ``im2col_step``."""
    batch = len(sampling_locations)
    step = max(1, min(batch, im2col_step))
    if batch % step:
        raise RuntimeError(f"the batch size, {batch}, must be a multiple of im2col_step, {step}")
    pixels = 4 * sampling_locations[0, ..., 0].numel() if batch else 0
    step = min(step, get_chunk_size(sampling_locations.device, pixels * ELEMENTS_PER_PIXEL))
    for start in range(0, batch, step):
        yield slice(start, start + step)


def attend(
    value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Return the weighted sums, of shape (n, queries, heads * D). It is differentiable."""
    dtype = get_working_dtype(value)
    batch, num_pixels, num_heads, channels = value.shape
    height, width = spatial_shapes[..., None].unbind(1)
    x, y = locations.to(dtype).unbind(-1)
    pixel, share = find_corners(y * height - 0.5, x * width - 0.5, height, width)
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(num_heads, device=value.device).view(-1, 1, 1, 1)
    row = (image * num_pixels + level_start_index.view(-1, 1, 1) + pixel) * num_heads + head
    share = share * weights.to(dtype)[..., None]
    rows = value.to(dtype).reshape(-1, channels)
    sums = blend_rows(rows, row.flatten(0, 2).flatten(1), share.flatten(0, 2).flatten(1))
    return sums.view(batch, -1, num_heads * channels)
