"""Optimizer wrappers and constructors that mmengine lacks."""

from van_mm.engine.optimizers.bf16_optim_wrapper import BFloat16OptimWrapper
from van_mm.engine.optimizers.layer_decay_constructor import LearningRateDecayOptimWrapperConstructor

__all__ = ["BFloat16OptimWrapper", "LearningRateDecayOptimWrapperConstructor"]
