"""Write a checkpoint and end the run on preemption or Ctrl-C."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import ValLoop
from torch.utils.data import DataLoader

from van_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from van_mm.registry import HOOKS
from van_mm.utils.errors import RunStopped


@HOOKS.register_module()
class StopHook(Hook):
    """Write a checkpoint and end the run on SIGTERM, SIGINT or SIGUSR1.

    SLURM sends SIGTERM on preemption, and torchrun sends it to end a job. Ctrl-C sends SIGINT. With
    ``--signal=USR1@120``, SLURM sends SIGUSR1 two minutes before the time limit.

    In training, the hook acts at the end of the current step. In validation, it acts after the current batch and
    abandons the validation. In a job of several processes, a signal to a single rank is enough: every ``interval``
    steps or batches all ranks agree whether one of them has received a signal, and all of them stop at the same place.
    No rank ends before the checkpoint is written, because torchrun would then kill the rank that writes it.

    A second SIGINT ends the run at once and writes no checkpoint. A step that never ends is not interrupted.

    The signal handlers are in place from ``before_train`` to ``after_train``, and call the previous handlers, too. If
    the run ends with another error, the caller has to call ``after_train`` to restore the previous handlers. Outside
    the main thread, where Python allows no signal handlers, the hook only agrees with the other ranks.

    Args:
        interval (int): Number of steps, or of validation batches, from one agreement of the ranks to the next. A single
            process acts after every step. Defaults to 10.

    Raises:
        RunStopped: After the checkpoint is written.
        KeyboardInterrupt: On the second SIGINT.
    """

    priority = "LOWEST"

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.signum = self.num_common_batches = 0
        self.group = None  # of several ranks
        self.old_handlers = {}

    def before_train(self, runner) -> None:
        self.after_train(runner)  # of an earlier training that ended with an error
        self.signum = 0
        if dist.is_initialized() and dist.get_world_size() > 1:
            self.group = get_gloo_group(runner.cfg)
        if threading.current_thread() is threading.main_thread():
            self.old_handlers = {signum: signal.signal(signum, self.remember_signal) for signum in get_stop_signals()}

    def after_train(self, runner) -> None:
        self.group = None
        while self.old_handlers:
            signum, handler = self.old_handlers.popitem()
            if signal.getsignal(signum) == self.remember_signal:
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def remember_signal(self, signum: int, frame) -> None:
        """Remember the first signal until the step is over, or raise on the second SIGINT."""
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum
        handler = self.old_handlers.get(signum)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(signum, frame)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.group is None or (runner.iter + 1) % self.interval == 0:
            self.stop_after_signal(runner, runner.iter + 1)

    def before_val_epoch(self, runner) -> None:
        if self.group is not None:  # ranks may have different numbers of batches
            number = torch.tensor(len(runner.val_dataloader) if isinstance(runner.val_loop, ValLoop) else 0)
            dist.all_reduce(number, dist.ReduceOp.MIN, self.group)
            self.num_common_batches = int(number)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.group is None or (batch_idx % self.interval == 0 and batch_idx < self.num_common_batches):
            self.stop_after_signal(runner, runner.iter, in_validation=True)

    def stop_after_signal(self, runner, steps: int, in_validation: bool = False) -> None:
        """If a rank has received a signal, write the checkpoint of a run that has taken ``steps`` steps, and raise."""
        signum = self.signum
        if self.group is not None:
            highest = torch.tensor(signum)
            dist.all_reduce(highest, dist.ReduceOp.MAX, self.group)
            signum = int(highest)
        if not signum:
            return
        for hook in runner.hooks if in_validation else ():  # undo what these hooks changed for the validation
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)
            if isinstance(hook, ExactResumeHook):
                hook.after_val(runner)
        path = save_checkpoint(runner, steps)
        if self.group is not None:
            dist.barrier(self.group)
        self.after_train(runner)
        raise RunStopped(
            signum,
            f"{signal.Signals(signum).name}: ended after iteration {steps}. The checkpoint {path} is complete. "
            "Continue with --resume",
        )


def save_checkpoint(runner, steps: int) -> Path:
    """Write ``iter_N.pth`` of a run that has taken ``steps`` steps, and return its path."""
    checkpoint_hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    out_dir, name = checkpoint_hook.out_dir, f"iter_{steps}.pth"
    meta = dict(epoch=runner.epoch, iter=steps)
    runner.save_checkpoint(out_dir, name, meta=meta, by_epoch=False, backend_args=checkpoint_hook.backend_args)
    if runner.rank == 0:
        Path(runner.work_dir, "last_checkpoint").write_text(str(Path(out_dir, name)))
    return Path(out_dir, name)


def get_stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a run. Windows has no SIGUSR1."""
    return [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


def get_gloo_group(cfg) -> dist.ProcessGroup:
    """Return a group of all ranks that communicates over gloo, because a collective on GPUs would wait for them."""
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    seconds = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")
    return dist.new_group(backend="gloo", timeout=seconds and timedelta(seconds=seconds))


def protect_workers(loader: DataLoader) -> None:
    """Let the workers of a data loader survive the signals that stop a run.

    SLURM and Ctrl-C send a signal to all processes of a job. Without its workers, the main process could neither finish
    its step nor write the checkpoint. The workers still end with the main process.
    """
    loader.worker_init_fn = partial(block_stop_signals, os.getpid(), loader.worker_init_fn)


def block_stop_signals(main_pid: int, worker_init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    """Initialize a worker so that only the process ``main_pid`` can end it with SIGTERM."""
    if hasattr(signal, "sigwaitinfo"):  # not on Windows and macOS

        def wait_for_main_process() -> None:
            while signal.sigwaitinfo([signal.SIGTERM]).si_pid != main_pid:
                pass
            os._exit(0)

        signal.pthread_sigmask(signal.SIG_BLOCK, get_stop_signals())
        threading.Thread(target=wait_for_main_process, daemon=True).start()
    if worker_init_fn is not None:
        worker_init_fn(worker_id)
