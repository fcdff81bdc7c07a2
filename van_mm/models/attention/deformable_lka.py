"""Deformable large kernel attention."""

import torch
from torch import Tensor, nn

from van_mm.registry import MODELS


class DeformableConv(nn.Module):
    """Depth-wise convolution whose taps are moved by offsets that a dense convolution computes from the input.

    Args:
        channels (int): C of the (N, C, H, W) input and output.
        kernel_size (int): Number of taps per axis, odd.
        dilation (int): Distance between taps before they are moved. Defaults to 1.

    Raises:
        ImportError: If torchvision, which has the operator, is not installed.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        from torchvision.ops import DeformConv2d  # optional: only this module needs it

        options = dict(padding=dilation * (kernel_size // 2), dilation=dilation)
        self.offset_net = nn.Conv2d(channels, 2 * kernel_size**2, kernel_size, **options)
        self.deform_conv = DeformConv2d(channels, channels, kernel_size, groups=channels, bias=False, **options)

    def init_weights(self) -> None:
        """Initialize the offsets as the official code, by PyTorch's default. VAN's would move the taps much farther."""
        self.offset_net.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        conv, own_dtype = self.deform_conv, next(self.parameters()).dtype
        dtype = torch.promote_types(own_dtype, torch.float32)  # on the CPU the operator has no half precision
        offset, x = self.offset_net(x).to(dtype), x.to(dtype)
        # The operator itself, because torch.fx can't trace the checks in DeformConv2d.forward.
        return torch.ops.torchvision.deform_conv2d(
            x, conv.weight.to(dtype), offset, x.new_zeros((x.shape[0], 1)), x.new_zeros(conv.out_channels),
            *conv.stride, *conv.padding, *conv.dilation, conv.groups, 1, False,
        ).to(own_dtype)  # fmt: skip


@MODELS.register_module()
class DeformableLKA(nn.Module):
    """Deformable large kernel attention (D-LKA) in 2D: LKA with deformable depth-wise convolutions.

    Paper: `Beyond Self-Attention: Deformable Large Kernel Attention for Medical Image Segmentation
    <https://arxiv.org/abs/2309.00121>`_, Azad et al., WACV 2024, section 3.2. Parameter names are those of the official
    release (github.com/xmindflow/deformableLKA, 2D/deformable_LKA/deformable_LKA.py).

    The dense convolutions that compute the offsets have many more parameters and multiply-adds than LKA itself.

    Args:
        channels (int): C of the (N, C, H, W) input and output.

    Raises:
        ImportError: If torchvision is not installed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = DeformableConv(channels, 5)
        self.conv_spatial = DeformableConv(channels, 7, 3)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention map (N, C, H, W) of ``x`` (N, C, H, W)."""
        return self.conv1(self.conv_spatial(self.conv0(x)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
