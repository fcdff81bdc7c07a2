"""Write a checkpoint and end the run on preemption or Ctrl-C."""

import signal
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import CheckpointHook, EMAHook, Hook

from van_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from van_mm.registry import HOOKS
from van_mm.utils.errors import RunStopped


@HOOKS.register_module()
class StopHook(Hook):
    """Write a checkpoint and end the run on SIGTERM, SIGINT or SIGUSR1.

    SLURM sends SIGTERM on preemption, and torchrun sends it to end a job. Ctrl-C sends SIGINT. With
    ``--signal=USR1@120``, SLURM sends SIGUSR1 two minutes before the time limit.

    In training, the hook acts at the end of the current step. All ranks agree on this in every step, so a signal to a
    single rank is enough, and all ranks stop after the same step. In validation, the hook acts after the current batch
    and abandons the validation. The ranks do not agree there, so the signal has to reach all of them. SLURM and
    torchrun send it to all of them.

    A second SIGINT ends the run at once and writes no checkpoint. A step that never ends is not interrupted.

    The signal handlers are in place from ``before_train`` to ``after_train``. If the run ends with another error, the
    caller has to call ``after_train`` to restore the previous handlers.

    Raises:
        RunStopped: After the checkpoint is written.
        KeyboardInterrupt: On the second SIGINT.
    """

    priority = "LOWEST"
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signum = 0
        self.old_handlers = {}

    def before_train(self, runner) -> None:
        self.distributed = dist.is_initialized() and dist.get_world_size() > 1
        # The ranks agree over gloo, because a collective on the GPU would wait for it in every step.
        self.group = dist.new_group(backend="gloo") if self.distributed else None
        self.old_handlers = {signum: signal.signal(signum, self.remember_signal) for signum in self.signals}

    def after_train(self, runner) -> None:
        while self.old_handlers:
            signal.signal(*self.old_handlers.popitem())

    def remember_signal(self, signum: int, frame) -> None:
        """Remember the first signal until the step is over, or raise on the second SIGINT."""
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        signum = self.signum
        if self.distributed:
            highest = torch.tensor(signum)
            dist.all_reduce(highest, dist.ReduceOp.MAX, self.group)
            signum = int(highest)
        if signum:
            self.stop(runner, signum, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self.signum:
            return
        for hook in runner.hooks:  # undo what these hooks changed for the validation
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)
            if isinstance(hook, ExactResumeHook):
                hook.after_val(runner)
        self.stop(runner, self.signum, runner.iter)

    def stop(self, runner, signum: int, steps: int) -> None:
        """Write the checkpoint of a run that has taken ``steps`` steps, and raise :class:`RunStopped`."""
        self.after_train(runner)
        checkpoint_hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
        out_dir, name = checkpoint_hook.out_dir, f"iter_{steps}.pth"
        meta = dict(epoch=runner.epoch, iter=steps)
        runner.save_checkpoint(out_dir, name, meta=meta, by_epoch=False, backend_args=checkpoint_hook.backend_args)
        path = Path(out_dir, name)
        if runner.rank == 0:
            Path(runner.work_dir, "last_checkpoint").write_text(str(path))
        raise RunStopped(
            signum,
            f"{signal.Signals(signum).name}: ended after iteration {steps}. The checkpoint {path} is complete. "
            "Continue with --resume",
        )
