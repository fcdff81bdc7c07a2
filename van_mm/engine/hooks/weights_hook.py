"""Make ``load_from`` of a bare state dict work together with mmengine's EMAHook."""

from mmengine.hooks import Hook

from van_mm.checkpoints.key_maps import get_state_dict
from van_mm.registry import HOOKS


@HOOKS.register_module()
class AnyVANWeightsHook(Hook):
    """Put a checkpoint that is a bare state dict under the key ``state_dict``.

    mmengine's EMAHook (0.10.7) copies ``checkpoint['state_dict']`` without asking, and files of Hugging Face and
    safetensors have no such key. The renaming of keys is not done here: VAN does that itself, see
    :mod:`van_mm.checkpoints.key_maps`.
    """

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume and "state_dict" not in checkpoint:
            checkpoint["state_dict"] = get_state_dict(dict(checkpoint))
