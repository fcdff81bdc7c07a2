"""Optimizer wrapper for mixed-precision training in bfloat16, with or without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from van_mm.checkpoints.loading import unwrap_model
from van_mm.models.utils.autocast import autocast_backbone
from van_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Optimizer wrapper that runs the forward pass under bfloat16 autocast, on the CPU or a GPU.

    mmengine's AmpOptimWrapper needs a GPU, because it scales the loss for float16. bfloat16 has the range of float32
    and needs no loss scaling.

    Args:
        backbone_only (bool): Use autocast in the backbone only, see
            :func:`~van_mm.models.utils.autocast.autocast_backbone`. Defaults to False.
        **kwargs: Arguments of mmengine's ``OptimWrapper``.
    """

    def __init__(self, backbone_only: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.backbone_only = backbone_only

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast for a forward pass inside the ``with`` block."""
        if self.backbone_only:
            mixed_precision = autocast_backbone(unwrap_model(model).backbone, torch.bfloat16)
        else:
            mixed_precision = autocast(dtype=torch.bfloat16)
        with super().optim_context(model), mixed_precision:
            yield
