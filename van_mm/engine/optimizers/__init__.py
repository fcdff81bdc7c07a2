"""Optimizer wrappers that mmengine lacks."""

from van_mm.engine.optimizers.bf16_optim_wrapper import BFloat16OptimWrapper

__all__ = ["BFloat16OptimWrapper"]
