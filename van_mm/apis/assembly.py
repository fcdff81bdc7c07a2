"""Assemble a runner and its data sets, and report what is wrong with them before training starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook

from van_mm.checkpoints.io import MODEL_ZOO_PREFIX, read_checkpoint
from van_mm.datasets.bad_samples import skip_bad_samples
from van_mm.datasets.checks.run import check_run, wrap_dataset_errors
from van_mm.engine.distributed.processes import take_turns
from van_mm.engine.hooks.preemption_hook import StopHook, protect_workers
from van_mm.engine.runner.resumable_loader import make_resumable
from van_mm.utils.config_walk import iter_dicts
from van_mm.utils.errors import RunStopped, UserError, locate_error, wrap_build_errors


@contextmanager
def wrap_first_step_errors(runner) -> Iterator[None]:
    """Turn errors before the end of the first step into a :class:`~van_mm.utils.errors.UserError`.

    Such errors come from parts that the runner builds late, or that do not fit together, so the config is to blame.
    Later errors pass unchanged.

    Args:
        runner (Runner): The runner that trains or tests inside the ``with`` block.

    Raises:
        UserError: On any error before the first step of training or testing has finished. The message names the line.
    """
    counter = StepCounterHook()
    runner.register_hook(counter, priority="LOWEST")
    try:
        yield
    except (UserError, RunStopped):
        raise
    except Exception as error:
        if counter.steps:
            raise
        raise UserError(f"the config does not build or run: {locate_error(error)}") from error
    finally:
        # mmengine calls after_train only at the end of a complete run. Signal handlers must always be restored.
        for hook in runner.hooks:
            if isinstance(hook, StopHook):
                hook.after_train(runner)


class StepCounterHook(Hook):
    """A hook that counts the training and testing steps of this process in ``steps``."""

    steps = 0

    def after_train_iter(self, *args, **kwargs) -> None:
        """Count a training step."""
        self.steps += 1

    def after_test_iter(self, *args, **kwargs) -> None:
        """Count a testing step."""
        self.steps += 1


def build_runner(cfg: Config):
    """Build the runner of a config, and report errors in one message.

    Args:
        cfg (Config): Config of a run, from :func:`van_mm.apis.run_config.get_run_config`.

    Returns:
        QuietRunner: The runner.

    Raises:
        UserError: If a part of the config does not build.
    """
    from van_mm.engine.runner.quiet_runner import QuietRunner

    with wrap_build_errors():
        return QuietRunner.from_cfg(cfg)


def build_datasets(runner, splits: tuple[str, ...], max_bad_data: float = 0.0) -> None:
    """Build and check the data loaders of a runner, which otherwise builds them later.

    Samples that cannot be read are listed in a file in the runner's log folder. Training may skip a share of them.
    Validation and testing stop at the first one, because skipping it would change the metric.

    Args:
        runner (Runner): The runner. Its loaders are replaced by built ones.
        splits (tuple[str]): The splits to build, of ``'train'``, ``'val'`` and ``'test'``.
        max_bad_data (float): The share of training samples, from 0 to 1, that may be skipped before training stops.
            Defaults to 0.

    Raises:
        UserError: If a data set does not build, is empty, or has other classes than the model.
    """
    order = dict(seed=runner.seed, diff_rank_seed=runner.cfg.get("randomness", {}).get("diff_rank_seed", False))
    datasets = {}
    for split in splits:
        name = f"_{split}_dataloader"
        if isinstance(getattr(runner, name), dict):
            with wrap_dataset_errors(split, getattr(runner, name).dataset):
                loader = runner.build_dataloader(getattr(runner, name), **order)
            if split == "train":
                make_resumable(loader, runner.seed)
            protect_workers(loader)
            datasets[split] = loader.dataset
            setattr(runner, name, loader)
    check_run(runner.cfg, datasets)
    for split, dataset in datasets.items():
        skip_bad_samples(dataset, Path(runner.log_dir), max_bad_data if split == "train" else None)


def check_pretrained_weights(cfg: Config) -> None:
    """Download and read every checkpoint that the model starts from, so that a missing one is reported early.

    Checkpoints with other schemes, such as ``torchvision://``, are left to mmengine.

    Args:
        cfg (Config): Config with a ``model``.

    Raises:
        WeightsError: If a checkpoint cannot be downloaded or read.
    """
    for node in iter_dicts(cfg.model):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained":
            source = init_cfg["checkpoint"]
            if "://" not in source or source.startswith(("http://", "https://", MODEL_ZOO_PREFIX)):
                with take_turns():
                    read_checkpoint(source)
