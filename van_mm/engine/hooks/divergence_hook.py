"""Skip optimizer steps whose gradients are not finite, and end a run that diverges."""

import math
from collections.abc import Callable
from functools import partial, update_wrapper

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict

from van_mm.checkpoints.key_maps import find_nonfinite, find_nonfinite_buffers
from van_mm.checkpoints.loading import unwrap_model
from van_mm.engine.runner.checkpoint_files import find_latest_checkpoint
from van_mm.registry import HOOKS
from van_mm.utils.errors import UserError

MIN_LOSS_SCALE = 1.0  # gradients that overflow float16 below this scale are too large without it (our choice)
REMEDY = (
    "Lower the learning rate (optim_wrapper.optimizer.lr), clip gradients (optim_wrapper.clip_grad.max_norm), or check "
    "the data"
)


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Skip optimizer steps with NaN or infinite gradients, and end the run after several bad steps in a row.

    A step is skipped if the gradients are not finite. The hook then drops them, so that the weights and the optimizer's
    moments stay as they are, and restores the model's buffers, such as the running statistics of norms. It logs the
    image files of the batch. The iteration, the schedules and EMAHook go on as after any other step.

    No check waits for a GPU. The hook knows the gradients from

    - the norm that ``optim_wrapper.clip_grad.max_norm`` computes;
    - the loss scaling of float16, which skips a step by itself if gradients overflow. This is part of its search for a
      scale, so such a step is only logged. It counts as bad if the loss is not finite, or if the scale cannot fall
      any more;
    - the gradients themselves, on the CPU or with ``check_gradients=True``.

    On a GPU with none of these, a step with NaN is taken. The hook notices it by the logged loss and ends the run.

    Before a checkpoint is saved, all weights have to be finite. Buffers that the model was built with, such as
    attention masks of -inf, may be infinite.

    Args:
        patience (int): Number of bad steps in a row that end the run. Defaults to 10.
        check_gradients (bool, optional): Check all gradients before each step, which waits for the GPU. Defaults to
            None, which does so on the CPU only.

    Raises:
        UserError: After ``patience`` bad steps in a row, or if a step has made weights not finite. The message names
            the iteration, the files of the last batch and the latest checkpoint. Also if a checkpoint would contain
            weights that are not finite.
    """

    priority = "VERY_HIGH"  # restores the buffers before EMAHook averages them

    def __init__(self, patience: int = 10, check_gradients: bool | None = None) -> None:
        self.patience, self.check_gradients = patience, check_gradients
        self.bad_in_a_row = self.skipped = self.overflows = 0
        self.has_stepped = self.is_bad = self.has_overflow = False
        self.infinite_buffers = frozenset()
        self.watched = []  # (wrapper, its method step, handle of its optimizer's hook)

    def before_train(self, runner) -> None:
        self.after_train(runner)  # of an earlier training that ended with an error
        wrapper = runner.optim_wrapper
        for part in wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            handle = part.optimizer.register_step_pre_hook(partial(self.before_step, part))
            self.watched.append((part, part.step, handle))
            # The attributes of the method tell the schedulers that it still counts the steps.
            part.step = update_wrapper(partial(self.watch_step, part, part.step), part.step)
        model = unwrap_model(runner.model)
        self.infinite_buffers = find_nonfinite_buffers(model)
        kinds = {}  # copying tensors of one kind takes a single call
        for buffer in model.buffers():
            kinds.setdefault((buffer.device, buffer.dtype), []).append(buffer)
        self.buffers = [(buffers, [buffer.clone() for buffer in buffers]) for buffers in kinds.values()]

    def after_train(self, runner) -> None:
        while self.watched:
            wrapper, wrapper.step, handle = self.watched.pop()
            handle.remove()

    def watch_step(self, wrapper: OptimWrapper, step: Callable, **kwargs) -> None:
        """Take a step of an optimizer wrapper, and remember whether the loss scaler has left it out."""
        self.has_stepped = False
        step(**kwargs)
        if not self.has_stepped and hasattr(wrapper, "loss_scaler"):
            self.has_overflow = True
            is_fixed = getattr(wrapper, "_scale_update_param", None) is not None
            self.is_bad = self.is_bad or is_fixed or wrapper.loss_scaler.get_scale() < MIN_LOSS_SCALE

    @torch.no_grad()
    def before_step(self, wrapper: OptimWrapper, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Drop all gradients before a step if one of them is not finite. The optimizer then has nothing to update."""
        self.has_stepped = True
        norm = (
            wrapper.message_hub.log_scalars.get(f"train/{wrapper.grad_name}")
            if getattr(wrapper, "clip_grad_kwargs", None)
            else None
        )
        if norm is not None and wrapper.clip_func is torch.nn.utils.clip_grad_norm_:
            is_finite = math.isfinite(norm.current())
        else:
            is_finite = not self.reads_gradients(optimizer) or are_gradients_finite(optimizer)
        if not is_finite:
            self.is_bad = True
            optimizer.zero_grad(set_to_none=True)

    def reads_gradients(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether to check the gradients themselves, which are on the CPU or may be waited for."""
        if self.check_gradients is None:
            return optimizer.param_groups[0]["params"][0].device.type == "cpu"
        return self.check_gradients

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        is_loss_finite = math.isfinite(get_logged_loss(runner, outputs))
        is_bad = self.is_bad or self.has_overflow and not is_loss_finite
        has_overflow, has_stepped = self.has_overflow, self.has_stepped
        self.is_bad = self.has_overflow = self.has_stepped = False
        where = f"iteration {runner.iter + 1}: the loss {'or a gradient ' * is_bad}is not finite"
        if has_overflow and not is_bad:
            self.overflows += 1
            runner.logger.info(
                f"iteration {runner.iter + 1}: a gradient overflows float16, so the step is left out and the loss "
                f"scale falls ({self.overflows} so far)"
            )
        elif has_stepped and not is_bad:
            self.bad_in_a_row = 0
        if is_loss_finite and not is_bad:
            for buffers, copies in self.buffers:
                torch._foreach_copy_(copies, buffers)
            return
        for buffers, copies in self.buffers:
            torch._foreach_copy_(buffers, copies)
        files = ", ".join(map(str, get_image_files(data_batch))) or "unknown"
        if not is_bad:
            bad_weights = find_nonfinite(dict(unwrap_model(runner.model).named_parameters()))
            if bad_weights:
                raise UserError(
                    f"training diverged: {where}, and neither are {len(bad_weights)} weights, such as "
                    f"{bad_weights[0]}. Files of the batch: {files}. {describe_latest_checkpoint(runner)}. {REMEDY}. "
                    "With clip_grad, such steps are left out"
                )
            runner.logger.warning(f"{where}, but all weights are. Its files: {files}")
            return
        self.bad_in_a_row += 1
        self.skipped += 1
        if self.bad_in_a_row < self.patience:
            runner.logger.warning(f"{where}, so the step is left out ({self.skipped} so far). Its files: {files}")
            return
        raise UserError(
            f"training diverged: {self.bad_in_a_row} steps in a row up to iteration {runner.iter + 1} had a loss or a "
            f"gradient that is not finite. Files of the last batch: {files}. {describe_latest_checkpoint(runner)}. "
            f"{REMEDY}"
        )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        bad_keys = [key for key in find_nonfinite(checkpoint["state_dict"]) if key not in self.infinite_buffers]
        if bad_keys:
            raise UserError(
                f"{len(bad_keys)} weights of the model are not finite, such as {', '.join(bad_keys[:3])}. No "
                "checkpoint was written. Resume from an earlier checkpoint with a lower learning rate or with clipped "
                "gradients"
            )


def are_gradients_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether all gradients of an optimizer are finite. This waits for the GPU."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norms = torch._foreach_norm(gradients) if gradients else []
    return not norms or bool(torch.stack([norm.to(norms[0]) for norm in norms]).isfinite().all())


def get_logged_loss(runner, outputs) -> float:
    """Return the loss of a step as mmengine's RuntimeInfoHook has logged it, or 0 if there is none."""
    if not isinstance(outputs, dict) or "loss" not in outputs:
        return 0.0
    logged = runner.message_hub.log_scalars.get("train/loss")
    return float(outputs["loss"] if logged is None else logged.current())


def describe_latest_checkpoint(runner) -> str:
    """Return a sentence without its full stop that names the latest complete checkpoint of a run."""
    return f"Latest good checkpoint: {find_latest_checkpoint(runner.work_dir)[0] or 'none'}"


def get_image_files(batch) -> list[str]:
    """Return the image files of a batch that its data samples name."""
    samples = batch.get("data_samples", []) if isinstance(batch, dict) else []
    return [sample.metainfo["img_path"] for sample in samples if "img_path" in getattr(sample, "metainfo", {})]
