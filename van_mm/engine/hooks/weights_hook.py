"""Make ``load_from`` accept the checkpoints of related models and every layout of VAN's weights."""

from mmengine.hooks import Hook

from van_mm.checkpoints.loading import match_state_dict, unwrap_model
from van_mm.registry import HOOKS


@HOOKS.register_module()
class AnyVANWeightsHook(Hook):
    """Load the part of a ``load_from`` checkpoint that fits the model, and report the rest in one message.

    The hook replaces ``checkpoint['state_dict']`` by a complete state dict of the model: the weights that fit, see
    :func:`~van_mm.checkpoints.loading.match_state_dict`, and the model's own values for all others. mmengine then has
    nothing to report, and its EMAHook (0.10.7), which copies that entry without asking, finds it in every file.
    Checkpoints that a run resumes from are not changed.
    """

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume:
            model = unwrap_model(runner.model)
            checkpoint["state_dict"] = model.state_dict() | match_state_dict(model, checkpoint)
