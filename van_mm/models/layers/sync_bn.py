"""SyncBatchNorm for the CPU."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class CPUSyncBatchNorm(_BatchNorm):
    """SyncBatchNorm for the CPU, which PyTorch lacks. It works over any backend of ``torch.distributed``."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass  # like SyncBatchNorm, it takes any number of dimensions

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` (N, C, ...) by the statistics of all processes in training, by the running ones otherwise."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        reduced_axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = torch.tensor([float(x.numel() // x.shape[1])])
        dist.all_reduce(count)
        mean = all_reduce(x.sum(reduced_axes)) / count
        centered = x - mean.view(shape)
        var = all_reduce(centered.square().sum(reduced_axes)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        slope = (var + self.eps).rsqrt()
        if not self.affine:
            return centered * slope.view(shape)
        return centered * (slope * self.weight).view(shape) + self.bias.view(shape)
