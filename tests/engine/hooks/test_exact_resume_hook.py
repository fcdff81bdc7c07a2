"""A resumed run ends with exactly the state of an uninterrupted run, and reads no data from before its checkpoint."""

import os
import pickle
import random
import traceback

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook

from tests.conftest import ROOT
from tests.engine.runs import Noise, noisy_runner

WORKERS = dict(num_workers=2, persistent_workers=True)
# An iteration-based run whose sampler ends, so that the order is drawn anew every three iterations.
FINITE = dict(sampler=dict(type="DefaultSampler", shuffle=True))
SHORT = dict(num_batch_per_epoch=2)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """mmengine sleeps for two seconds before it starts an iterator anew."""
    monkeypatch.setattr("mmengine.runner.loops.time.sleep", lambda seconds: None)


def train(*args, **options):
    """Train, and end persistent workers, for which the garbage collector waits for seconds."""
    runner = noisy_runner(*args, **options)
    runner.train()
    if (workers := runner.train_dataloader._iterator) is not None:
        workers._shutdown_workers()


@pytest.mark.parametrize(
    ("by_epoch", "options"),
    [(True, {}), (False, {}), (True, WORKERS), (False, WORKERS), (False, FINITE), (False, WORKERS | FINITE),
     (True, SHORT)],
)  # fmt: skip
def test_resume_is_exact(by_epoch, options, tmp_path):
    """Resuming restores the data order, augmentation, dropout, EMA and schedule, also after a validation."""
    name = f"{tmp_path.name}{by_epoch}"
    train(by_epoch, tmp_path / "a", f"a{name}", 4, **options)
    last = f"iter_{24 if not by_epoch else 8 if options == SHORT else 12}.pth"
    expected = torch.load(tmp_path / "a" / last, weights_only=False)
    for stop in (2, 4, 6) if by_epoch else (2, 6, 20):  # in the middle and at the end of an epoch
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        resume = tmp_path / f"a/iter_{stop}.pth"
        train(by_epoch, tmp_path / "c", f"c{name}{stop}", 4, resume=resume, **options)
        actual = torch.load(tmp_path / "c" / last, weights_only=False)
        for part in ("state_dict", "ema_state_dict"):
            for key, value in expected[part].items():
                assert torch.equal(value, actual[part][key]), (stop, part, key)
        assert expected["param_schedulers"] == actual["param_schedulers"]


@pytest.mark.parametrize("by_epoch", [True, False])
def test_resume_reads_no_earlier_data(by_epoch, tmp_path, monkeypatch):
    noisy_runner(by_epoch, tmp_path / "a", f"a{tmp_path.name}", 4).train()
    reads = []
    get_item = Noise.__getitem__
    monkeypatch.setattr(Noise, "__getitem__", lambda self, index: reads.append(index) or get_item(self, index))
    stop, last = (10, 12) if by_epoch else (22, 24)
    resume = tmp_path / f"a/iter_{stop}.pth"
    noisy_runner(by_epoch, tmp_path / "b", f"b{tmp_path.name}", 4, resume=resume).train()
    assert len(reads) == 2 * (last - stop) + 6  # two samples a batch, and one validation


class Recorder(Hook):
    """Records the samples of each step, without their order, and the random numbers that a step draws."""

    priority = "LOWEST"

    def __init__(self):
        self.steps = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        draws = [random.random(), np.random.random(), torch.rand(()).item()]
        samples = data_batch["inputs"].unique(dim=0).tolist()
        self.steps.append((sorted((round(index), noise) for index, noise, *_ in samples), draws))


def train_ranks(ranks, folder, name, **options):
    """Train in this many processes, which do not exchange gradients. Return each rank's recorded steps."""
    children = []
    for rank in range(ranks):
        if pid := os.fork():
            children.append(pid)
            continue
        try:
            torch.set_num_threads(1)
            rendezvous = f"file://{folder}/{name}_rendezvous"
            dist.init_process_group("gloo", rendezvous, rank=rank, world_size=ranks)
            recorder = Recorder()
            noisy_runner(False, folder / name, f"{name}{rank}", hooks=[recorder], **options).train()
            (folder / f"{name}_{rank}").write_bytes(pickle.dumps(recorder.steps))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * ranks
    return [pickle.loads((folder / f"{name}_{rank}").read_bytes()) for rank in range(ranks)]


def test_each_rank_has_its_own_random_numbers(tmp_path):
    """Two ranks resume with the samples and the random numbers of their own uninterrupted runs."""
    (tmp_path / "a").mkdir()
    whole = train_ranks(2, tmp_path, "a", length=2)
    resume = tmp_path / "a/iter_4.pth"
    resumed = train_ranks(2, tmp_path, "b", length=2, resume=resume)
    for rank in range(2):
        assert resumed[rank] == whole[rank][4:] and len(resumed[rank]) == 8
    assert all(one[1] != other[1] for one, other in zip(*whole, strict=True))

    # One rank with the batch of both sees the same samples with the same augmentation.
    (alone,) = train_ranks(1, tmp_path, "c", length=2, resume=resume, batch_size=4)
    both = [sorted(one[0] + other[0]) for one, other in zip(*resumed, strict=True)]
    assert [step[0] for step in alone] == both

    # One rank with the batch of one continues after the samples that both have seen.
    (alone,) = train_ranks(1, tmp_path, "d", length=1, resume=resume)
    seen = sorted(alone[0][0] + alone[1][0])
    assert [index for index, _ in seen] == [index for index, _ in both[0]]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--processes", 2, "--epochs", 6)])
def test_kill_and_resume_script(options, run_process, demo_root):
    """The script passes with 3 kills. The documentation shows a run with 20."""
    script = ROOT / "tools/misc/kill_and_resume.py"
    kills = ("--kills", 3, "--while-writing", 1, "--iters", 120, "--demo-root", demo_root)
    done = run_process(script, "cls/van_b0_in1k", *kills, *options)
    assert done.returncode == 0, done.stdout
    assert "killed 2 times between and 1 times while a checkpoint was written; the final weights are the same" in (
        done.stdout
    )
