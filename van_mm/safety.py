"""What keeps a long run from being lost: checkpoints that are whole or absent, resuming that changes nothing, a last
checkpoint when the system ends the run, and steps that are not taken when a loss or gradient is not finite."""

import contextlib
import os
import random
import signal
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop

from van_mm.errors import UserError
from van_mm.registry import HOOKS
from van_mm.weights import bare


@register_backend("van_mm.AtomicBackend")
class AtomicBackend(LocalBackend):
    """mmengine's local files, but one that is written appears under its name when all of it is on the disk.

    ``default_hooks.checkpoint.backend_args = dict(backend='van_mm.AtomicBackend')`` makes mmengine's CheckpointHook
    write with it; ``tools/train.py`` does.

    Raises:
        UserError: If it can't be written, as on a full disk. What was under the name before is still there.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes beside ``filepath``, and rename."""
        path = Path(filepath)
        draft = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{path.name}-*"):  # by a process that was killed
                left.unlink()
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
                draft = file.name
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(draft, 0o644)
            os.replace(draft, path)
        except OSError as error:
            if draft is not None:
                with contextlib.suppress(OSError):
                    os.unlink(draft)
            raise UserError(
                f"{path} ({len(obj) / 2**20:.0f} MB) can't be written: {error.strerror}. Earlier checkpoints are "
                "whole; make room and go on with --resume"
            ) from error


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint file has everything that was written into it, by the checksums of its parts."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


def latest_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[Path]]:
    """The checkpoint that a run goes on from, and newer ones that are broken.

    Args:
        work_dir (str | Path): Of the run; ``last_checkpoint`` in it need not be there, or right.

    Returns:
        tuple[Path | None, list[Path]]: The newest whole one of ``epoch_N.pth`` and ``iter_N.pth``.
    """
    found = [path for kind in ("epoch", "iter") for path in Path(work_dir).glob(f"{kind}_*.pth")]
    broken = []
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, steps_of(path)), reverse=True):
        if is_whole(path):
            return path, broken
        broken.append(path)
    return None, broken


def steps_of(checkpoint: Path) -> int:
    """N of ``epoch_N.pth`` and ``iter_N.pth``."""
    number = checkpoint.stem.partition("_")[2]
    return int(number) if number.isdigit() else 0


def random_state() -> dict:
    """The states of all random generators of this process, as a checkpoint can hold them."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=(kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def set_random_state(state: dict) -> None:
    """Put :func:`random_state` back."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


class PassingOver:
    """A data loader of which the batches that a run had before are read, and not given out.

    Args:
        loader (Iterable): The data loader, or an iterator of it; its attributes are this one's too.
        passed (int): Batches to pass over.
        arrived (Callable): Called when they are.
    """

    def __init__(self, loader, passed: int, arrived) -> None:
        self.loader, self.passed, self.arrived = loader, passed, arrived

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        batches = iter(self.loader)
        for _ in range(self.passed):
            next(batches)
        self.arrived()
        yield from batches

    def __next__(self):
        """For mmengine's iteration-based loop, which passes over batches itself."""
        batch = next(self.loader)
        self.passed -= 1
        if self.passed == 0:
            self.arrived()
        return batch


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Let a resumed run go on with the random numbers that it would have had.

    Checkpoints get the states of the random generators; validation, which a resumed run does not repeat, leaves them
    as they were. An epoch that was broken off goes on at its next batch. mmengine itself restores model, averages,
    optimiser, scheduler, scaler and the sampler's order. The result is that of the uninterrupted run to the bit, on
    one process on the CPU, unless an epoch-based run has persistent workers, whose own generators go on from epoch to
    epoch.
    """

    def __init__(self) -> None:
        self.resumed = None

    def before_val(self, runner) -> None:
        self.training = random_state()

    def after_val(self, runner) -> None:
        set_random_state(self.training)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint["random_state"] = random_state()
        checkpoint["epoch_random_state"] = self.epoch_began

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume and "random_state" in checkpoint:
            now = checkpoint["random_state"]
            self.resumed = now, checkpoint.get("epoch_random_state", now)

    def before_train_epoch(self, runner) -> None:
        loop, self.loader = runner.train_loop, None
        if self.resumed is not None:
            (now, began), self.resumed = self.resumed, None
            if not isinstance(loop, EpochBasedTrainLoop):
                if loop.iter:  # which mmengine advances after this
                    batches, arrived = loop.dataloader_iterator, lambda: set_random_state(now)
                    loop.dataloader_iterator = PassingOver(batches, loop.iter, arrived)
            elif passed := loop.iter - loop.epoch * len(loop.dataloader):
                set_random_state(began)  # workers draw their seeds from it
                self.loader = loop.dataloader
                loop.dataloader = PassingOver(self.loader, passed, lambda: set_random_state(now))
            else:
                set_random_state(now)
        self.epoch_began = random_state()

    def after_train_epoch(self, runner) -> None:
        if self.loader is not None:
            runner.train_loop.dataloader = self.loader


class Stopped(Exception):
    """The system asked the run to end, and it did; ``signum`` is the signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@HOOKS.register_module()
class StopHook(Hook):
    """Write a checkpoint and end the run on SIGTERM, on SIGINT, and on SIGUSR1.

    SIGTERM is SLURM's preemption and torchrun's end, SIGINT is Ctrl-C, and SIGUSR1 what ``--signal=USR1@120`` has
    SLURM send before the time is up. The checkpoint is that of the step at hand, which all processes of a job take
    together; a validation is broken off. A second Ctrl-C ends the run without one.

    Raises:
        Stopped: When the checkpoint is written.
    """

    priority = "LOWEST"
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signum = 0
        self.handlers = {}

    def before_train(self, runner) -> None:
        self.distributed = dist.is_initialized() and dist.get_world_size() > 1
        self.group = dist.new_group(backend="gloo") if self.distributed else None  # no wait for a GPU
        self.handlers = {signum: signal.signal(signum, self.note) for signum in self.signals}

    def after_train(self, runner) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def note(self, signum: int, frame) -> None:
        """Remember a signal until the step is over."""
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        signum = self.signum
        if self.distributed:
            asked = torch.tensor(signum)
            dist.all_reduce(asked, dist.ReduceOp.MAX, self.group)
            signum = int(asked)
        if signum:
            self.stop(runner, signum, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self.signum:
            return
        for hook in runner.hooks:  # what validation changed
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)
            if isinstance(hook, ExactResumeHook):
                hook.after_val(runner)
        self.stop(runner, self.signum, runner.iter)

    def stop(self, runner, signum: int, steps: int) -> None:
        """End a run that took so many steps."""
        self.after_train(runner)
        saver = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
        name = f"iter_{steps}.pth"
        meta = dict(epoch=runner.epoch, iter=steps)
        runner.save_checkpoint(saver.out_dir, name, meta=meta, by_epoch=False, backend_args=saver.backend_args)
        written = Path(saver.out_dir, name)
        if runner.rank == 0:
            Path(runner.work_dir, "last_checkpoint").write_text(str(written))
        raise Stopped(
            signum,
            f"{signal.Signals(signum).name}: ended after iteration {steps}, {written} is whole; go on with --resume",
        )


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Leave out the optimiser's step where a loss or a gradient is NaN or infinite, and stop after several in a row.

    A step that is left out changes nothing: parameters, the optimiser's moments and the statistics of norms stay what
    they were. Each is logged with the files of its batch. A checkpoint whose weights are not finite is not written.

    Args:
        patience (int): Bad steps in a row that end the run. Defaults to 10.

    Raises:
        UserError: When they do; the message names iteration, files and the last checkpoint.
    """

    priority = "VERY_HIGH"  # before EMAHook takes the statistics over

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.in_a_row = self.skipped = 0
        self.bad = False

    def before_train(self, runner) -> None:
        wrapper = runner.optim_wrapper
        wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        self.handles = [one.optimizer.register_step_pre_hook(self.look) for one in wrappers]
        self.buffers = list(bare(runner.model).buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]

    def after_train(self, runner) -> None:
        for handle in self.handles:
            handle.remove()

    @torch.no_grad()
    def look(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Before a step: drop all gradients if one of them is not finite, which leaves the optimiser nothing to do."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm([p.grad for p in parameters])
        if norms and not torch.stack([norm.to(norms[0]) for norm in norms]).isfinite().all():
            self.bad = True
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        bad = self.bad or (loss is not None and not bool(torch.as_tensor(loss).isfinite()))
        self.bad = False
        if not bad:
            self.in_a_row = 0
            torch._foreach_copy_(self.kept, self.buffers)
            return
        torch._foreach_copy_(self.buffers, self.kept)
        self.in_a_row += 1
        self.skipped += 1
        files = ", ".join(map(str, files_of(data_batch))) or "unknown"
        if self.in_a_row < self.patience:
            runner.logger.warning(
                f"iteration {runner.iter + 1}: the loss or a gradient is not finite; the step is left out "
                f"({self.skipped} so far). Its files: {files}"
            )
            return
        last, _ = latest_checkpoint(runner.work_dir)
        raise UserError(
            f"training diverged: {self.in_a_row} steps in a row up to iteration {runner.iter + 1} had a loss or a "
            f"gradient that is not finite. The last batch: {files}. The last good checkpoint: {last or 'none'}. Lower "
            "the learning rate (optim_wrapper.optimizer.lr), clip gradients (optim_wrapper.clip_grad.max_norm), or "
            "check the data"
        )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        wrong = [
            key
            for key, value in checkpoint["state_dict"].items()
            if value.is_floating_point() and not value.isfinite().all()
        ]
        if wrong:
            raise UserError(
                f"the model has weights that are not finite, {', '.join(wrong[:3])} and {len(wrong) - len(wrong[:3])} "
                "more; no checkpoint of it is written"
            )


def files_of(batch) -> list[str]:
    """The picture files of a batch, as its data samples know them."""
    samples = batch.get("data_samples", []) if isinstance(batch, dict) else []
    return [sample.metainfo["img_path"] for sample in samples if "img_path" in getattr(sample, "metainfo", {})]
