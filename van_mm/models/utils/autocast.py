"""Mixed precision for the backbone alone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.utils import apply_to
from torch import nn


@contextmanager
def autocast_backbone(backbone: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Run a backbone under autocast inside the ``with`` block, and convert its outputs to float32.

    Some operators of necks and heads do not support bfloat16, for example mmcv's RoIAlign on the CPU.

    Args:
        backbone (nn.Module): It returns a tensor, or sequences or dicts of tensors. Its device is that of its
            parameters.
        dtype (torch.dtype): ``torch.float16`` or ``torch.bfloat16``.
    """
    device = next(backbone.parameters()).device.type
    with ExitStack() as stack:
        autocast = stack.enter_context(ExitStack())  # also left if the backbone raises

        def enter(module: nn.Module, inputs: tuple) -> None:
            autocast.enter_context(torch.autocast(device, dtype))

        def leave(module: nn.Module, inputs: tuple, outputs):
            autocast.close()
            return apply_to(outputs, is_half_precision, torch.Tensor.float)

        stack.callback(backbone.register_forward_pre_hook(enter).remove)
        stack.callback(backbone.register_forward_hook(leave).remove)
        yield


def is_half_precision(value) -> bool:
    """Return whether a value is a tensor of float16 or bfloat16."""
    return isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
