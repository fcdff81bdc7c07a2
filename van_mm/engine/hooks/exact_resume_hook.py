"""Resume a run with the random states and the next batch of the uninterrupted run."""

from collections.abc import Callable, Iterator

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from van_mm.engine.runner.random_state import get_random_state, set_random_state
from van_mm.registry import HOOKS


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


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Resume a run with the random states and the next batch of the uninterrupted run.

    - Before a checkpoint is saved, the hook adds the random state of the process, now and at the start of the epoch.
    - When a resumed run starts to train, it discards the batches of the current epoch that were consumed before the
      checkpoint, and then restores the random state. mmengine restores the model, its averages, the optimizer, the
      schedulers, the loss scaler and the order of the sampler.
    - After each validation, it restores the random state from before, because a resumed run does not repeat the
      validation.

    The weights of a resumed run equal those of the uninterrupted run bit by bit on one process on the CPU. This does
    not hold for epoch-based runs with persistent workers, because the random states of the workers carry over from
    epoch to epoch and are not saved. It is not guaranteed on GPUs or for several processes: rank 0 writes the
    checkpoint, and every rank resumes with the random state of rank 0.
    """

    def __init__(self) -> None:
        self.resumed_states = None

    def before_val(self, runner) -> None:
        self.state_before_val = get_random_state()

    def after_val(self, runner) -> None:
        set_random_state(self.state_before_val)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint["random_state"] = get_random_state()
        checkpoint["epoch_random_state"] = self.epoch_state

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume and "random_state" in checkpoint:
            state = checkpoint["random_state"]
            self.resumed_states = state, checkpoint.get("epoch_random_state", state)

    def before_train_epoch(self, runner) -> None:
        loop, self.full_loader = runner.train_loop, None
        if self.resumed_states is not None:
            (state, epoch_state), self.resumed_states = self.resumed_states, None

            def restore() -> None:
                set_random_state(state)

            if not isinstance(loop, EpochBasedTrainLoop):
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
