"""Large separable kernel attention."""

from torch import Tensor, nn

from van_mm.registry import MODELS


@MODELS.register_module()
class LSKA(nn.Module):
    """Large separable kernel attention: LKA whose depth-wise convolutions are split into a row and a column.

    Paper: `Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN
    <https://arxiv.org/abs/2309.01439>`_, Lau, Po and Rehman, Expert Systems with Applications 2024. Parameter names are
    those of the official classifier (github.com/StevenLauHKHK/Large-Separable-Kernel-Attention, models/van.py).

    A K x K convolution is decomposed into a (2d-1) x (2d-1) depth-wise convolution, a floor(K/d) x floor(K/d)
    depth-wise convolution with dilation d, and a 1x1 convolution. Each depth-wise one is a 1 x k convolution followed
    by a k x 1 convolution. The paper evaluates K = 7, 11, 23, 35 and 53; the official code also has 41.

    Args:
        channels (int): C of the (N, C, H, W) input and output.
        kernel_size (int): K. Defaults to 23, the size of the published weights.
        dilation (int, optional): d. Defaults to the official code's, 2 up to K = 11 and 3 above.

    Raises:
        ValueError: If the kernel is smaller than the dilation.

    Example:
        >>> lska = LSKA(8, kernel_size=35)
        >>> [tuple(conv.kernel_size) for conv in (lska.conv0h, lska.conv0v, lska.conv_spatial_h, lska.conv_spatial_v)]
        [(1, 5), (5, 1), (1, 11), (11, 1)]
    """

    def __init__(self, channels: int, kernel_size: int = 23, dilation: int | None = None) -> None:
        super().__init__()
        dilation = dilation or (2 if kernel_size <= 11 else 3)
        if kernel_size < dilation:
            raise ValueError(f"kernel_size={kernel_size} of LSKA is smaller than its dilation, {dilation}")
        local, wide = 2 * dilation - 1, kernel_size // dilation
        self.conv0h, self.conv0v = make_separable_convs(channels, local)
        self.conv_spatial_h, self.conv_spatial_v = make_separable_convs(channels, wide, dilation)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention map (N, C, H, W) of ``x`` (N, C, H, W)."""
        return self.conv1(self.conv_spatial_v(self.conv_spatial_h(self.conv0v(self.conv0h(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


def make_separable_convs(channels: int, kernel_size: int, dilation: int = 1) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return a 1 x k and a k x 1 depth-wise convolution that keep the spatial size."""
    options = dict(padding="same", dilation=dilation, groups=channels)
    if kernel_size % 2:  # equal padding on both sides, which every exporter knows
        reach = dilation * (kernel_size // 2)
        row, column = options | dict(padding=(0, reach)), options | dict(padding=(reach, 0))
    else:
        row = column = options
    return (
        nn.Conv2d(channels, channels, (1, kernel_size), **row),
        nn.Conv2d(channels, channels, (kernel_size, 1), **column),
    )
