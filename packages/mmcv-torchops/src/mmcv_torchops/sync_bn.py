"""Synchronised batch normalisation. mmcv reduces the statistics over the processes between these functions.

Features are (N, C, S) of any floating type; statistics (C,), ``norm`` (N, C, S) and ``std`` are float32 in mmcv.
"""

import torch
from torch import Tensor

from .computing import untraced


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the mean of each channel into ``mean`` (C,)."""
    mean.copy_(input.mean((0, 2), dtype=mean.dtype))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean squared distance of each channel from ``mean``, which all processes share, into ``var`` (C,)."""
    var.copy_((input - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalise the features, and update the running statistics.

    ``norm`` receives the normalised features, ``std`` the standard deviation with eps, and ``output`` the normalised
    features times ``weight`` plus ``bias``. ``running_mean`` and ``running_var`` move to this batch's mean and unbiased
    variance by ``momentum``, under the assumption that each of the ``group_size`` processes has a batch of this size.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_(input).sub_(mean[:, None]).div_(std[:, None])
    output.copy_(norm if weight is None else torch.addcmul(bias[:, None], norm, weight[:, None]))
    if running_mean is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased_var = var * (count / (count - 1)) if count > 1 else var
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_var.copy_(momentum * unbiased_var + (1 - momentum) * running_var)


@untraced
def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Write this process's gradients of weight and bias into ``grad_weight`` and ``grad_bias`` (C,)."""
    grad_weight.copy_((grad_output * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.sum((0, 2), dtype=grad_bias.dtype))


@untraced
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the gradient of the features into ``grad_input``.

    ``grad_weight`` and ``grad_bias`` (C,) are the means over the processes of what ``sync_bn_backward_param`` wrote.
    """
    count = grad_output.shape[0] * grad_output.shape[2]
    scale = (weight / std)[:, None]
    through_mean, through_std = -scale * grad_bias[:, None] / count, -scale * grad_weight[:, None] / count
    grad_input.copy_(grad_output * scale + torch.addcmul(through_mean, norm, through_std))
