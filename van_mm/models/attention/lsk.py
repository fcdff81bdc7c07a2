"""Large selective kernel attention."""

import torch
from torch import Tensor, nn

from van_mm.models.layers.depthwise_conv import DepthwiseConv2d
from van_mm.registry import MODELS


@MODELS.register_module()
class LSK(nn.Module):
    """Large selective kernel attention: each pixel chooses between a small and a large receptive field.

    Paper: `Large Selective Kernel Network for Remote Sensing Object Detection <https://arxiv.org/abs/2303.09030>`_,
    Li et al., ICCV 2023, section 3.3. Parameter names are those of the official release (github.com/zcablii/LSKNet,
    mmrotate/models/backbones/lsknet.py), which calls the module LSKblock.

    A 5x5 depth-wise convolution sees 5 pixels, and a 7x7 one with dilation 3 after it sees 23. A 1x1 convolution
    reduces each of the two to half the channels. From the mean and the maximum over all these channels, a 7x7
    convolution and a sigmoid compute one weight a pixel for each of the two. Their weighted sum, expanded by a 1x1
    convolution, is the attention map.

    Args:
        channels (int): C of the (N, C, H, W) input and output, an even number.

    Raises:
        ValueError: If ``channels`` is odd.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"LSK halves its channels, so {channels} channels have to be an even number")
        self.conv0 = DepthwiseConv2d(channels, 5)
        self.conv_spatial = DepthwiseConv2d(channels, 7, 3)
        self.conv1 = nn.Conv2d(channels, channels // 2, 1)
        self.conv2 = nn.Conv2d(channels, channels // 2, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(channels // 2, channels, 1)

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention map (N, C, H, W) of ``x`` (N, C, H, W)."""
        local = self.conv0(x)
        small, large = self.conv1(local), self.conv2(self.conv_spatial(local))
        both = torch.cat([small, large], 1)
        pooled = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], 1)
        selection = self.conv_squeeze(pooled).sigmoid()
        return self.conv(small * selection[:, :1] + large * selection[:, 1:])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
