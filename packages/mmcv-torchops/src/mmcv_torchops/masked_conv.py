"""Convolution at the pixels of a mask: its input patches as columns, and columns written to the pixels.

Source: mmcv/ops/csrc/common/cuda/masked_conv2d_cuda_kernel.cuh.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the patches of ``im`` (1, C, H, W) at n pixels into ``col`` (C * kernel_h * kernel_w, n).

    A patch begins ``pad_h`` rows above and ``pad_w`` columns before its pixel, which is at ``mask_h_idx`` (n,) and
    ``mask_w_idx`` (n,). It is 0 off the image.
    """
    padded = F.pad(im[0], (pad_w, kernel_w - 1 - pad_w, pad_h, kernel_h - 1 - pad_h))
    row = mask_h_idx + torch.arange(kernel_h, device=im.device).view(-1, 1, 1)
    column = mask_w_idx + torch.arange(kernel_w, device=im.device).view(-1, 1)
    col.copy_(padded[:, row, column].view_as(col))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write the columns of ``col`` (channels, n) to n pixels of ``im`` (1, channels, height, width)."""
    im[0][:, mask_h_idx, mask_w_idx] = col.to(im.dtype)
