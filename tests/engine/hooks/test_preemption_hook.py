"""A signal stops a run after a checkpoint, and the resumed run loses nothing."""

import os
import random
import re
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook

from tests.engine.runs import batches, noisy_runner, runner
from van_mm.engine.hooks.preemption_hook import StopHook
from van_mm.engine.runner.checkpoint_files import find_latest_checkpoint
from van_mm.utils.errors import RunStopped


class Signal(Hook):
    """Send a signal to this process at a training step, or in the validation after that step."""

    def __init__(self, step, in_validation):
        self.step, self.in_validation = step, in_validation

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.in_validation and runner.iter == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.in_validation and runner.iter == self.step and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("in_validation", [True, False])
@pytest.mark.parametrize("by_epoch", [True, False])
def test_stopped_and_resumed(by_epoch, in_validation, tmp_path):
    """A signal within an epoch, at its last step, or during validation does not change the final state."""
    noisy_runner(by_epoch, tmp_path / "a", f"sa{by_epoch}{in_validation}", 4).train()
    last = "iter_12.pth" if by_epoch else "iter_24.pth"
    expected = torch.load(tmp_path / "a" / last, weights_only=False)
    for step in (6,) if in_validation else (4, 5):
        work_dir = tmp_path / f"b{step}"
        stopped = noisy_runner(by_epoch, work_dir, f"sb{by_epoch}{in_validation}{step}", 4)
        stopped.register_hook(StopHook())
        stopped.register_hook(Signal(step, in_validation))
        with pytest.raises(RunStopped, match="SIGUSR1: ended after iteration"):
            stopped.train()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        written, _ = find_latest_checkpoint(work_dir)
        assert written.name == f"iter_{step + (not in_validation)}.pth"
        assert (work_dir / "last_checkpoint").read_text() == str(written)
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        noisy_runner(by_epoch, work_dir, f"sc{by_epoch}{in_validation}{step}", 4, resume=written).train()
        actual = torch.load(work_dir / last, weights_only=False)
        for part in ("state_dict", "ema_state_dict"):
            for key, value in expected[part].items():
                assert torch.equal(value, actual[part][key]), (step, part, key)
        assert expected["param_schedulers"] == actual["param_schedulers"]
        assert expected["meta"]["iter"] == actual["meta"]["iter"]


def test_old_handlers_are_called_and_restored(tmp_path):
    """A handler that was there before, such as that of a job manager, still learns of the signal."""
    received = []
    old = signal.signal(signal.SIGUSR1, lambda signum, frame: received.append(signum))
    mine = signal.getsignal(signal.SIGUSR1)
    try:
        run = runner(batches(), tmp_path)
        hook = StopHook()
        run.register_hook(hook)
        run.register_hook(Signal(2, in_validation=False))
        hook.before_train(run)  # of a training that ended with an error
        with pytest.raises(RunStopped, match="SIGUSR1: ended after iteration 3"):
            run.train()
        assert received == [signal.SIGUSR1] and signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_training_outside_the_main_thread_and_without_sigusr1(tmp_path, monkeypatch):
    """Python allows signal handlers in the main thread only, and Windows has no SIGUSR1."""
    monkeypatch.delattr(signal, "SIGUSR1")
    run = runner(batches(), tmp_path)
    run.register_hook(StopHook())
    thread = threading.Thread(target=run.train)
    thread.start()
    thread.join()
    assert run.iter == 6
    run = runner(batches(), tmp_path / "main")
    run.register_hook(StopHook())
    run.train()
    assert run.iter == 6


def test_ranks_agree_at_intervals(monkeypatch):
    """Ranks communicate in every tenth step only, and in validation batches that all of them have."""
    reduced = []
    monkeypatch.setattr(dist, "all_reduce", lambda *args: reduced.append(args))
    hook = StopHook()
    hook.group, hook.num_common_batches = "all ranks", 15
    for step in range(40):
        hook.after_train_iter(SimpleNamespace(iter=step), step)
    assert len(reduced) == 4
    for batch in range(40):
        hook.after_val_iter(SimpleNamespace(iter=40), batch)
    assert len(reduced) == 6


TWO_RANKS = """
import os, signal, sys, time
from pathlib import Path
from mmengine.config import Config
from mmengine.hooks import Hook
from torch.utils.data import Subset
from tests.engine.runs import Noise, noisy_runner
from van_mm.apis.command_line import exit_with_message
from van_mm.engine.distributed.processes import join_job
from van_mm.engine.hooks.preemption_hook import StopHook
from van_mm.utils.errors import RunStopped

_, rank, batch, *_ = sys.argv


class Signal(Hook):
    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == int(rank) and batch_idx == int(batch):
            os.kill(os.getpid(), signal.SIGUSR1)


with exit_with_message():
    join_job(Config(dict(launcher="pytorch")))
    run = noisy_runner(True, Path("run"), "two", 4)
    sampler = dict(type="DefaultSampler", shuffle=False, round_up=False)
    run._val_dataloader.update(dataset=Subset(Noise(), range(5)), batch_size=1, sampler=sampler)  # 3 and 2 batches
    save = run.save_checkpoint
    run.save_checkpoint = lambda *args, **options: (time.sleep(run.rank == 0), save(*args, **options))
    run.register_hook(StopHook(interval=2))
    run.register_hook(Signal())
    try:
        run.train()
    except RunStopped:
        print("checkpoints:", sorted(path.name for path in Path("run").glob("*.pth")))
        raise
"""


@pytest.mark.parametrize(
    ("rank", "batch", "steps"),
    [(1, 0, 2), (0, 0, 2), (0, 2, 4)],
    ids=["rank 1", "rank 0", "a batch that rank 1 does not have"],
)
def test_signal_to_one_rank_in_validation(rank, batch, steps, fork_tool, tmp_path):
    """Both ranks abandon the validation, or stop in a later step, and none ends before the checkpoint is written."""
    (tmp_path / "two.py").write_text(TWO_RANKS)
    for fork in fork_tool(tmp_path / "two", rank, batch, ranks=2):
        done = fork.wait(60)
        assert done.returncode == 128 + signal.SIGUSR1, done.stdout
        assert f"SIGUSR1: ended after iteration {steps}" in done.stdout
        assert f"iter_{steps}.pth" in re.search("checkpoints: (.*)", done.stdout)[1]


def test_workers_survive_signals_to_the_whole_job(fork_tool, demo_root, tmp_path):
    """SLURM and Ctrl-C send a signal to the workers of the data loaders, too."""
    train = ("train", "seg/semantic_fpn_van_b0", "--demo", "--demo-root", demo_root, "--demo-iters", 5000)
    options = ("batch_size=1", "num_workers=1", "persistent_workers=True")
    options = (*(f"train_dataloader.{option}" for option in options), "default_hooks.logger.interval=1")
    (fork,) = fork_tool(*train, "--no-validate", "--work-dir", tmp_path / "run", "--cfg-options", *options)
    fork.wait_for("Iter(train)")
    workers = [int(pid) for pid in Path(f"/proc/{fork.pid}/task/{fork.pid}/children").read_text().split()]
    assert workers
    for signum in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        for worker in workers:
            os.kill(worker, signum)
    steps = fork.log.read_text().count("Iter(train)")
    fork.wait_for("Iter(train)", steps + 4)  # more than the batches that are loaded already
    os.kill(fork.pid, signal.SIGTERM)
    done = fork.wait(60)
    assert done.returncode == 128 + signal.SIGTERM and "SIGTERM: ended after iteration" in done.stdout, done.stdout
