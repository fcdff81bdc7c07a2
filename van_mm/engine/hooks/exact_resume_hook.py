"""Resume a run with the random states and the next batch of the uninterrupted run."""

from collections.abc import Iterator

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from van_mm.engine.runner.resumable_loader import ResumableLoader, make_resumable
from van_mm.engine.runner.resumed_schedule import fast_forward, find_lr_changes, find_schedule_changes
from van_mm.registry import HOOKS
from van_mm.utils.random_state import seed_generators


class DiscardedBatches:
    """An iterator over the data that starts with None for each batch that mmengine's loop discards.

    The loop discards as many batches as the run has had iterations. The data loader has skipped them already.

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
    """Resume a run with the random numbers and the next batch of the uninterrupted run.

    - The random generators are seeded by the run's seed, the iteration and the rank before each step, and by the place
      of a sample in the training before it is loaded. A resumed run therefore has nothing to restore and nothing to
      replay. mmengine restores the model, its averages, the optimizer, the schedulers and the loss scaler.
    - The sampler skips the samples from before the checkpoint. Their data is not read.
    - If an epoch has another number of batches than before the checkpoint, because of another batch size, data set or
      number of processes, the current epoch starts from its first batch. An iteration-based run continues after as many
      samples. If the config has another schedule than the checkpoint, the run follows the config's. All are logged.
    - A run that had all its iterations before the checkpoint is evaluated, because its last validation may be missing.

    The weights of a resumed run equal those of the uninterrupted run bit by bit on the CPU, with one or two processes
    and any number of workers. This does not hold for transforms that keep a state, such as a cache of earlier images
    or a random generator of their own, nor for a checkpoint between two steps of accumulated gradients, which a
    checkpoint does not contain. It is not guaranteed on GPUs, nor for more processes, whose gradients may be added in
    another order.
    """

    def __init__(self) -> None:
        self.is_resumed = self.is_finished = False
        self.keeps_position = True
        self.num_ahead = 0  # batches that an iteration-based run has skipped beyond its number of iterations

    def before_run(self, runner) -> None:
        """Make the data loader resumable, which tools/train.py has done before the loop starts to read data."""
        loop = runner._train_loop
        loader = getattr(loop, "dataloader", None)
        if not isinstance(loader, DataLoader) or isinstance(loader, ResumableLoader):
            return
        make_resumable(loader, runner.seed)
        if isinstance(loop, IterBasedTrainLoop):
            if isinstance(loader.sampler, InfiniteSampler):  # its order goes on where an earlier iterator has stopped
                loader.sampler.indices = loader.sampler._indices_of_rank()
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        seed_generators("step", runner.seed, runner.iter, runner.rank, device=True)

    def before_val(self, runner) -> None:
        seed_generators("validation", runner.seed, runner.iter, runner.rank, device=True)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        loop = runner.train_loop
        checkpoint["loader_length"] = len(loop.dataloader)
        if isinstance(loop, IterBasedTrainLoop) and isinstance(loop.dataloader, ResumableLoader):
            size = loop.dataloader.samples_per_step
            num_samples = (checkpoint["meta"]["iter"] + self.num_ahead) * size
            checkpoint["data_position"] = dict(
                samples=num_samples, samples_per_step=size, dataset_length=len(loop.dataloader.dataset)
            )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        self.is_resumed = True
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self.keep_position(runner, checkpoint)
        elif isinstance(getattr(runner.train_loop, "dataloader", None), ResumableLoader):
            self.find_position(runner, checkpoint)
        self.keep_schedule(runner, checkpoint)

    def keep_position(self, runner, checkpoint: dict) -> None:
        """Set the iteration of a checkpoint to the start of its epoch, if its place among the batches is unknown."""
        length, saved_length = len(runner.train_loop.dataloader), get_loader_length(checkpoint)
        meta = checkpoint["meta"]
        num_seen = meta["iter"] - meta["epoch"] * length
        self.keeps_position = saved_length in (None, length) and 0 <= num_seen <= length
        if self.keeps_position:
            return
        meta["iter"] = meta["epoch"] * length
        runner.logger.warning(
            f"resume: the data loader has {length} batches per epoch, and {saved_length or 'another number'} before "
            "the checkpoint (another batch size, number of processes or data set), so epoch "
            f"{meta['epoch'] + 1} starts from its first batch"
        )

    def find_position(self, runner, checkpoint: dict) -> None:
        """Find the batch at which an iteration-based run continues. Steps with other batches give as many samples."""
        loader, num_iters = runner.train_loop.dataloader, checkpoint["meta"]["iter"]
        now = dict(samples_per_step=loader.samples_per_step, dataset_length=len(loader.dataset))
        saved = checkpoint.get("data_position") or dict(now, samples=num_iters * now["samples_per_step"])
        num_seen = saved["samples"] // now["samples_per_step"]
        self.num_ahead = num_seen - num_iters
        changes = [f"{key} {saved[key]}, now {value}" for key, value in now.items() if saved[key] != value]
        if changes:
            runner.logger.warning(
                f"resume: the data has changed ({'; '.join(changes)}). The run continues after the first "
                f"{num_seen * now['samples_per_step']} samples in its order"
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
        loop = runner.train_loop
        loader = loop.dataloader
        if not isinstance(loader, ResumableLoader):
            return  # mmengine's loops then read what they skip
        loader.batches.iteration = loop.iter
        if isinstance(loop, EpochBasedTrainLoop):
            if self.is_resumed:
                loader.batches.skip(loop.iter - loop.epoch * len(loader))
        elif loop.iter:
            if not self.is_finished:
                loop.dataloader_iterator._epoch = loader.batches.skip(loop.iter + self.num_ahead)
            loop.dataloader_iterator = DiscardedBatches(loop.dataloader_iterator, loop.iter)
        self.is_resumed = False


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
