"""Mixed precision for the backbone alone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def autocast_backbone(backbone: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Run a backbone under autocast inside the ``with`` block, and convert its outputs to float32.

    Some operators of necks and heads do not support bfloat16, for example mmcv's RoIAlign on the CPU.

    Args:
        backbone (nn.Module): It returns a sequence of tensors. Its device is that of its parameters.
        dtype (torch.dtype): ``torch.float16`` or ``torch.bfloat16``.
    """
    device = next(backbone.parameters()).device.type
    with ExitStack() as stack:
        autocast = stack.enter_context(ExitStack())  # also left if the backbone raises

        def enter(module: nn.Module, inputs: tuple) -> None:
            autocast.enter_context(torch.autocast(device, dtype))

        def leave(module: nn.Module, inputs: tuple, outputs: tuple) -> tuple:
            autocast.close()
            return tuple(output.float() for output in outputs)

        stack.callback(backbone.register_forward_pre_hook(enter).remove)
        stack.callback(backbone.register_forward_hook(leave).remove)
        yield
