"""Skip optimizer steps whose gradients are not finite, and end a run that diverges."""

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict

from van_mm.checkpoints.key_maps import find_nonfinite
from van_mm.checkpoints.loading import unwrap_model
from van_mm.engine.runner.checkpoint_files import find_latest_checkpoint
from van_mm.registry import HOOKS
from van_mm.utils.errors import UserError


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Skip optimizer steps with NaN or infinite gradients, and end the run after several bad steps in a row.

    - Before an optimizer step, the hook drops all gradients of the optimizer if one of them is not finite. The step
      then changes neither the parameters nor the optimizer's moments.
    - After an iteration with a loss or gradient that is not finite, it restores the model's buffers, such as the
      running statistics of norms, and logs the image files of the batch.
    - Before a checkpoint is saved, it checks that all weights are finite.

    A step is not undone if only the loss is not finite and all gradients are. The checks wait for the GPU in every
    step, because their result decides whether the step is taken.

    Args:
        patience (int): Number of bad steps in a row that end the run. Defaults to 10.

    Raises:
        UserError: After ``patience`` bad steps in a row. The message names the iteration, the files of the last batch
            and the latest checkpoint. Also if a checkpoint would contain weights that are not finite.
    """

    priority = "VERY_HIGH"  # restores the buffers before EMAHook averages them

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.bad_in_a_row = self.skipped = 0
        self.has_bad_gradient = False

    def before_train(self, runner) -> None:
        wrapper = runner.optim_wrapper
        wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        self.handles = [w.optimizer.register_step_pre_hook(self.drop_bad_gradients) for w in wrappers]
        self.buffers = list(unwrap_model(runner.model).buffers())
        self.good_buffers = [buffer.clone() for buffer in self.buffers]

    def after_train(self, runner) -> None:
        for handle in self.handles:
            handle.remove()

    @torch.no_grad()
    def drop_bad_gradients(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Drop all gradients before a step if one of them is not finite. The optimizer then has nothing to update."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm([p.grad for p in parameters])
        if norms and not torch.stack([norm.to(norms[0]) for norm in norms]).isfinite().all():
            self.has_bad_gradient = True
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        is_bad = self.has_bad_gradient or (loss is not None and not bool(torch.as_tensor(loss).isfinite()))
        self.has_bad_gradient = False
        if not is_bad:
            self.bad_in_a_row = 0
            torch._foreach_copy_(self.good_buffers, self.buffers)
            return
        torch._foreach_copy_(self.buffers, self.good_buffers)
        self.bad_in_a_row += 1
        self.skipped += 1
        files = ", ".join(map(str, get_image_files(data_batch))) or "unknown"
        if self.bad_in_a_row < self.patience:
            runner.logger.warning(
                f"iteration {runner.iter + 1}: the loss or a gradient is not finite, so the step is left out "
                f"({self.skipped} so far). Its files: {files}"
            )
            return
        latest, _ = find_latest_checkpoint(runner.work_dir)
        raise UserError(
            f"training diverged: {self.bad_in_a_row} steps in a row up to iteration {runner.iter + 1} had a loss or a "
            f"gradient that is not finite. Files of the last batch: {files}. Latest good checkpoint: "
            f"{latest or 'none'}. Lower the learning rate (optim_wrapper.optimizer.lr), clip gradients "
            "(optim_wrapper.clip_grad.max_norm), or check the data"
        )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        bad_keys = find_nonfinite(checkpoint["state_dict"])
        if bad_keys:
            raise UserError(
                f"{len(bad_keys)} weights of the model are not finite, such as {', '.join(bad_keys[:3])}. No "
                "checkpoint was written. Resume from an earlier checkpoint with a lower learning rate or with clipped "
                "gradients"
            )


def get_image_files(batch) -> list[str]:
    """Return the image files of a batch that its data samples name."""
    samples = batch.get("data_samples", []) if isinstance(batch, dict) else []
    return [sample.metainfo["img_path"] for sample in samples if "img_path" in getattr(sample, "metainfo", {})]
