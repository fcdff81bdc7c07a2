"""Depth-wise convolution that keeps the spatial size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from van_mm.ops.dispatch import choose_depthwise_algorithm, get_compute_dtype


class DepthwiseConv2d(nn.Conv2d):
    """Depth-wise convolution with dilation d, computed by one of three algorithms with the same result.

    - ``'torch'``: PyTorch's own convolution.
    - ``'kernel'``: the compiled CPU kernel of :mod:`van_mm.ops`.
    - ``'phases'``: d x d undilated convolutions. Pixels whose rows and columns are equal modulo d never meet the
      other pixels, so each such phase of the map is convolved on its own; all phases run as one batch.

    :func:`van_mm.ops.dispatch.choose_depthwise_algorithm` chooses, unless ``forced_algorithm`` is set on the class or
    an instance.

    Args:
        channels (int): C of the (N, C, H, W) input and output.
        kernel_size (int): Number of taps per axis.
        dilation (int): Distance between taps. Defaults to 1.
    """

    forced_algorithm: str | None = None

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        extent = dilation * (kernel_size - 1)
        # 'same' pads the two sides unequally, so it is used only where no equal padding keeps the size.
        padding = "same" if extent % 2 else extent // 2
        super().__init__(channels, channels, kernel_size, padding=padding, dilation=dilation, groups=channels)

    def choose_algorithm(self, x: Tensor) -> str:
        """Return the algorithm for an input ``x`` (N, C, H, W)."""
        return self.forced_algorithm or choose_depthwise_algorithm(self, x)

    def forward(self, x: Tensor) -> Tensor:
        algorithm = self.choose_algorithm(x)
        if algorithm == "kernel":
            return torch.ops.van_mm.dwconv(x.to(get_compute_dtype(x)), self.weight, self.bias, self.dilation[0])
        return self.convolve_phases(x) if algorithm == "phases" else super().forward(x)

    def convolve_phases(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (N, C, H, W) as d x d undilated convolutions."""
        n, c, h, w = x.shape
        d, reach = self.dilation[0], self.kernel_size[0] // 2
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -w % d, 0, -h % d))
        rows, cols = x.shape[1] // d, x.shape[2] // d
        x = x.view(n, rows, d, cols, d, c).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(n * d * d, rows, cols, c).permute(0, 3, 1, 2)
        pad = min(reach, max(rows, cols) - 1)  # taps farther out only meet the zeros around the map
        taps = slice(reach - pad, reach + pad + 1)
        x = F.conv2d(x, self.weight[:, :, taps, taps], self.bias, padding=pad, groups=c).permute(0, 2, 3, 1)
        x = x.reshape(n, d, d, rows, cols, c).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(n, rows * d, cols * d, c)[:, :h, :w]
        return x.permute(0, 3, 1, 2)
