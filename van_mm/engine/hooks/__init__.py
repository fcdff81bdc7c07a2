"""Hooks that mmengine lacks."""

from van_mm.engine.hooks.divergence_hook import DivergenceHook
from van_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from van_mm.engine.hooks.fold_hook import FoldHook
from van_mm.engine.hooks.plain_types_hook import PlainTypesHook
from van_mm.engine.hooks.preemption_hook import StopHook
from van_mm.engine.hooks.save_predictions_hook import PanelHook
from van_mm.engine.hooks.validation_trial_hook import ValidationTrialHook
from van_mm.engine.hooks.weights_hook import AnyVANWeightsHook
from van_mm.engine.runner import checkpoint_files  # noqa: F401  registers AtomicBackend

__all__ = [
    "AnyVANWeightsHook",
    "DivergenceHook",
    "ExactResumeHook",
    "FoldHook",
    "PanelHook",
    "PlainTypesHook",
    "StopHook",
    "ValidationTrialHook",
]
