"""Training in mixed precision without a GPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from van_mm.registry import OPTIM_WRAPPERS
from van_mm.weights import bare


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper with the forward pass under bfloat16 autocast, on the CPU or a GPU.

    mmengine's AmpOptimWrapper scales the loss, for float16's sake, and therefore wants a GPU; bfloat16 reaches as far
    as float32 and needs no scale.

    Args:
        backbone_only (bool): Leave all but the backbone in float32, for heads that know no bfloat16, as mmcv's RoIAlign
            on the CPU. Defaults to False.
        **kwargs: OptimWrapper's.
    """

    def __init__(self, backbone_only: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.backbone_only = backbone_only

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), ExitStack() as stack:
            if not self.backbone_only:
                stack.enter_context(autocast(dtype=torch.bfloat16))
            else:
                backbone = bare(model).backbone
                inside = stack.enter_context(ExitStack())

                def enter(module: nn.Module, inputs: tuple) -> None:
                    inside.enter_context(autocast(dtype=torch.bfloat16))

                def leave(module: nn.Module, inputs: tuple, outputs: tuple) -> tuple:
                    inside.close()
                    return tuple(output.float() for output in outputs)

                stack.callback(backbone.register_forward_pre_hook(enter).remove)
                stack.callback(backbone.register_forward_hook(leave).remove)
            yield
