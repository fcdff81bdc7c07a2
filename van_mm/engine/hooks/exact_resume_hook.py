"""Resume a run with the random states and the next batch of the uninterrupted run."""

from collections.abc import Callable, Iterator

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from van_mm.engine.runner.resumed_schedule import fast_forward, find_lr_changes, find_schedule_changes
from van_mm.registry import HOOKS
from van_mm.utils.random_state import get_random_state, set_random_state


class SkipSeenBatches:
    """A loader that discards the batches consumed before the checkpoint.

    Args:
        loader (Iterable): The data loader, or an iterator over it. All other attributes are read from it.
        num_seen (int): Number of batches to discard.
        on_skipped (Callable): Called once all of them are discarded.
    """

    def __init__(self, loader, num_seen: int, on_skipped: Callable[[], None]) -> None:
        self.loader, self.num_seen, self.on_skipped = loader, num_seen, on_skipped

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        batches = iter(self.loader)
        for _ in range(self.num_seen):
            next(batches)
        self.on_skipped()
        yield from batches

    def __next__(self):
        """Return the next batch. mmengine's iteration-based loop discards the seen batches itself."""
        batch = next(self.loader)
        self.num_seen -= 1
        if self.num_seen == 0:
            self.on_skipped()
        return batch


class SkipNothing:
    """An iterator that reads no data for batches that are discarded.

    mmengine's iteration-based loop discards as many batches as the run has had iterations. Their place in the data is
    unknown if the data loader has changed, and of no use if the run is finished.

    Args:
        batches (Iterator): Iterator over the data. All other attributes are read from it.
        num_discarded (int): Number of batches that are None.
    """

    def __init__(self, batches: Iterator, num_discarded: int) -> None:
        self.batches, self.num_discarded = batches, num_discarded

    def __getattr__(self, name: str):
        return getattr(self.batches, name)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        """Return None for a discarded batch, or the next batch."""
        if self.num_discarded:
            self.num_discarded -= 1
            return None
        return next(self.batches)


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Resume a run with the random states and the next batch of the uninterrupted run.

    - Before a checkpoint is saved, the hook adds the random state of the process, now and at the start of the epoch.
    - When a resumed run starts to train, it discards the batches of the current epoch that were consumed before the
      checkpoint, and then restores the random state. mmengine restores the model, its averages, the optimizer, the
      schedulers, the loss scaler and the order of the sampler.
    - After each validation, it restores the random state from before, because a resumed run does not repeat the
      validation.
    - If the data loader has another length than that of the checkpoint, because of another batch size, data set or
      number of processes, the current epoch starts from its first batch. If the config has another schedule than the
      checkpoint, the run follows the config's. Both are logged.
    - A run that had all its iterations before the checkpoint is evaluated, because its last validation may be missing.

    The weights of a resumed run equal those of the uninterrupted run bit by bit on one process on the CPU. This does
    not hold for epoch-based runs with persistent workers, because the random states of the workers carry over from
    epoch to epoch and are not saved. It is not guaranteed on GPUs or for several processes: rank 0 writes the
    checkpoint, and every rank resumes with the random state of rank 0.
    """

    def __init__(self) -> None:
        self.resumed_states = self.epoch_state = self.full_loader = None
        self.is_resumed = self.keeps_position = False

    def before_val(self, runner) -> None:
        self.state_before_val = get_random_state()

    def after_val(self, runner) -> None:
        set_random_state(self.state_before_val)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        state = get_random_state()
        checkpoint["random_state"] = state
        checkpoint["epoch_random_state"] = state if self.epoch_state is None else self.epoch_state
        checkpoint["loader_length"] = len(runner.train_dataloader)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        self.is_resumed = True
        if "random_state" in checkpoint:
            state = checkpoint["random_state"]
            self.resumed_states = state, checkpoint.get("epoch_random_state", state)
        self.keep_position(runner, checkpoint)
        self.keep_schedule(runner, checkpoint)

    def keep_position(self, runner, checkpoint: dict) -> None:
        """Set the iteration of a checkpoint to the start of its epoch, if its place among the batches is unknown."""
        loop, meta = runner.train_loop, checkpoint["meta"]
        length, saved_length = len(loop.dataloader), get_loader_length(checkpoint)
        self.keeps_position = saved_length in (None, length)
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if by_epoch:
            num_seen = meta["iter"] - meta["epoch"] * length
            self.keeps_position = self.keeps_position and 0 <= num_seen <= length
        if self.keeps_position:
            return
        if by_epoch:
            meta["iter"] = meta["epoch"] * length
        place = f"epoch {meta['epoch'] + 1} starts from its first batch" if by_epoch else "their order starts anew"
        runner.logger.warning(
            f"resume: the data loader has {length} batches per epoch, and {saved_length or 'another number'} before "
            f"the checkpoint (another batch size, number of processes or data set), so {place}"
        )

    def keep_schedule(self, runner, checkpoint: dict) -> None:
        """Replace the schedule of a checkpoint by the config's, if they differ, and say so."""
        schedulers, saved = runner.param_schedulers or [], checkpoint.get("param_schedulers") or []
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)
        if (
            optimizer is None
            or "optimizer" not in checkpoint
            or not all(isinstance(s, list) for s in (schedulers, saved))
        ):
            return  # several optimizers, or a checkpoint without them
        changes = find_schedule_changes(schedulers, saved)
        if not schedulers and not saved:
            changes = find_lr_changes(optimizer.param_groups, checkpoint["optimizer"]["param_groups"])
        loop, meta = runner.train_loop, checkpoint["meta"]
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if not changes and (self.keeps_position or not by_epoch):
            return
        fast_forward(checkpoint, optimizer, schedulers, (meta["epoch"], meta["iter"], len(loop.dataloader) * by_epoch))
        if changes:
            lengths = describe_lengths(checkpoint, loop)
            runner.logger.warning(
                f"resume: the checkpoint has another schedule than the config{lengths}: {'; '.join(changes)}. The run "
                f"follows the config's schedule from iteration {meta['iter']} on"
            )

    def before_train(self, runner) -> None:
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        self.is_finished = self.is_resumed and (
            loop.epoch >= loop.max_epochs if by_epoch else loop.iter >= loop.max_iters
        )

    def after_train(self, runner) -> None:
        if not self.is_finished:
            return
        finished = f"resume: the run is finished, because the checkpoint {runner._load_from} has had all its iterations"
        if runner.val_loop is None:
            config = getattr(runner.cfg, "filename", None) or "CONFIG"
            runner.logger.warning(f"{finished}. Evaluate it with tools/test.py {config} {runner._load_from}")
        else:
            runner.logger.warning(f"{finished}. Its last validation is repeated")
            runner.val_loop.run()

    def before_train_epoch(self, runner) -> None:
        loop, self.full_loader = runner.train_loop, None
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if self.is_resumed and not by_epoch and (self.is_finished or not self.keeps_position):
            loop.dataloader_iterator = SkipNothing(loop.dataloader_iterator, loop.iter)
            if self.resumed_states is not None:
                set_random_state(self.resumed_states[0])
                self.resumed_states = None
        if self.resumed_states is not None:
            (state, epoch_state), self.resumed_states = self.resumed_states, None

            def restore() -> None:
                set_random_state(state)

            if not by_epoch:
                if loop.iter:  # the loop discards this many batches after this hook
                    loop.dataloader_iterator = SkipSeenBatches(loop.dataloader_iterator, loop.iter, restore)
            elif num_seen := loop.iter - loop.epoch * len(loop.dataloader):
                set_random_state(epoch_state)  # the workers draw their seeds from it
                self.full_loader = loop.dataloader
                loop.dataloader = SkipSeenBatches(self.full_loader, num_seen, restore)
            else:
                restore()
        self.epoch_state = get_random_state()

    def after_train_epoch(self, runner) -> None:
        if self.full_loader is not None:
            runner.train_loop.dataloader = self.full_loader


def get_loader_length(checkpoint: dict) -> int | None:
    """Return the number of batches in an epoch of the run that wrote a checkpoint, or None if it is not known."""
    if "loader_length" in checkpoint:
        return checkpoint["loader_length"]
    # mmengine's own checkpoints hold the lengths of the run, from which the epoch's follows if it has several
    info = get_run_info(checkpoint)
    epochs, iterations = info.get("max_epochs"), info.get("max_iters")
    return iterations // epochs if epochs and epochs > 1 and iterations else None


def get_run_info(checkpoint: dict) -> dict:
    """Return what mmengine's message hub says about the run that wrote a checkpoint."""
    hub = checkpoint.get("message_hub")
    return dict(hub.get("runtime_info") or {}) if isinstance(hub, dict) else {}


def describe_lengths(checkpoint: dict, loop) -> str:
    """Return the lengths of a checkpoint's run and of this one in parentheses, or nothing if they are equal."""
    key, unit = ("max_epochs", "epochs") if isinstance(loop, EpochBasedTrainLoop) else ("max_iters", "iterations")
    before, now = get_run_info(checkpoint).get(key), getattr(loop, key)
    return f" ({before} {unit}, now {now})" if before not in (None, now) else ""
