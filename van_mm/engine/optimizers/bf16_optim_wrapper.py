"""Optimizer wrapper for mixed-precision training in bfloat16, with or without a GPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from van_mm.checkpoints.loading import unwrap_model
from van_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Optimizer wrapper that runs the forward pass under bfloat16 autocast, on the CPU or a GPU.

    mmengine's AmpOptimWrapper needs a GPU, because it scales the loss for float16. bfloat16 has the range of float32
    and needs no loss scaling.

    Args:
        backbone_only (bool): Use autocast in the backbone only, and convert its outputs to float32. Some operators of
            heads do not support bfloat16, for example mmcv's RoIAlign on the CPU. Defaults to False.
        **kwargs: Arguments of mmengine's ``OptimWrapper``.
    """

    def __init__(self, backbone_only: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.backbone_only = backbone_only

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast for a forward pass inside the ``with`` block."""
        with super().optim_context(model), ExitStack() as stack:
            if not self.backbone_only:
                stack.enter_context(autocast(dtype=torch.bfloat16))
            else:
                backbone = unwrap_model(model).backbone
                backbone_autocast = stack.enter_context(ExitStack())  # also left if the backbone raises

                def enter(module: nn.Module, inputs: tuple) -> None:
                    backbone_autocast.enter_context(autocast(dtype=torch.bfloat16))

                def leave(module: nn.Module, inputs: tuple, outputs: tuple) -> tuple:
                    backbone_autocast.close()
                    return tuple(output.float() for output in outputs)

                stack.callback(backbone.register_forward_pre_hook(enter).remove)
                stack.callback(backbone.register_forward_hook(leave).remove)
            yield
