"""Multi-scale convolutional attention."""

from torch import Tensor, nn

from van_mm.models.attention.lska import make_separable_convs
from van_mm.models.layers.depthwise_conv import DepthwiseConv2d
from van_mm.registry import MODELS


@MODELS.register_module()
class MSCA(nn.Module):
    """Multi-scale convolutional attention: a 5x5 depth-wise convolution and three pairs of strips after it, summed.

    Paper: `SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation
    <https://arxiv.org/abs/2209.08575>`_, Guo et al., NeurIPS 2022, section 3.1. Parameter names are those of the
    official release (github.com/Visual-Attention-Network/SegNeXt, mmseg/models/backbones/mscan.py). SegNeXt's MSCAN has
    VAN's block with this module in it, but another stem: that network is mmsegmentation's ``MSCAN``.

    Args:
        channels (int): C of the (N, C, H, W) input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = DepthwiseConv2d(channels, 5)
        self.conv0_1, self.conv0_2 = make_separable_convs(channels, 7)
        self.conv1_1, self.conv1_2 = make_separable_convs(channels, 11)
        self.conv2_1, self.conv2_2 = make_separable_convs(channels, 21)
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention map (N, C, H, W) of ``x`` (N, C, H, W)."""
        local = self.conv0(x)
        seven = self.conv0_2(self.conv0_1(local))
        eleven = self.conv1_2(self.conv1_1(local))
        twenty_one = self.conv2_2(self.conv2_1(local))
        return self.conv3(local + seven + eleven + twenty_one)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
