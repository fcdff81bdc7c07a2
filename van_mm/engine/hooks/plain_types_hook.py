"""Write checkpoints that any process can read."""

from mmengine.hooks import Hook

from van_mm.checkpoints.plain_types import restore_history_buffers, to_plain_types
from van_mm.registry import HOOKS


@HOOKS.register_module()
class PlainTypesHook(Hook):
    """Write checkpoints with tensors and Python's own types only, and restore mmengine's types when a run resumes.

    ``torch.load`` (PyTorch 2.6 and newer) refuses the ``HistoryBuffer`` and the NumPy arrays that mmengine 0.10.7 puts
    into a checkpoint, unless the process has allowed these types. Importing van_mm does so, but upstream's inferencers
    and tools read the checkpoint first. A run without this hook resumes too, with empty averages of its log.
    """

    priority = "LOWEST"  # after the hooks that add something to the checkpoint

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        for key in checkpoint.keys() - {"state_dict", "ema_state_dict"}:
            checkpoint[key] = to_plain_types(checkpoint[key])

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        if "message_hub" in checkpoint:
            checkpoint["message_hub"] = restore_history_buffers(checkpoint["message_hub"])
        # mmengine warns unless the data set's meta information is the same in every type.
        meta = checkpoint.get("meta", {})
        own = getattr(getattr(runner.train_dataloader, "dataset", None), "metainfo", None)
        if own is not None and to_plain_types(own) == meta.get("dataset_meta"):
            meta["dataset_meta"] = own
