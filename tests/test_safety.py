"""Checkpoints are whole or absent; steps on what is not finite are not taken."""

import errno
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from tests.conftest import ROOT
from tests.tools.test_train_test import refused
from van_mm.errors import UserError
from van_mm.safety import AtomicBackend, StopHook, Stopped, is_whole, latest_checkpoint

TRAIN = ("train", "cls/van_b0_in1k", "--demo", "--no-validate")


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "run/iter_1.pth"
    AtomicBackend().put(b"first", file)
    assert file.read_bytes() == b"first"

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"iter_1\.pth \(0 MB\) can't be written: No space left on device.*--resume"):
        AtomicBackend().put(b"second", file)
    assert file.read_bytes() == b"first" and [p.name for p in file.parent.iterdir()] == ["iter_1.pth"]


def test_full_disk_ends_the_run(run_tool, demo_root, tmp_path, monkeypatch):
    """At the second checkpoint: the first is whole, and --resume goes on from it."""
    writes, real = [], os.fsync

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", 3)
    options = ("--cfg-options", "train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=1")
    refused(run_tool(*train, *options), "iter_2.pth", "No space left on device", "Earlier checkpoints are whole")
    assert [file.name for file in (tmp_path / "run").glob("*.pth")] == ["iter_1.pth"] and is_whole(
        tmp_path / "run/iter_1.pth"
    )
    assert (tmp_path / "run/last_checkpoint").read_text().endswith("iter_1.pth")
    done = run_tool(*train, "--resume", *options)
    assert done.returncode == 0 and is_whole(tmp_path / "run/iter_3.pth"), done.stdout


def test_latest_is_the_newest_whole_one(tmp_path):
    assert latest_checkpoint(tmp_path / "none") == (None, [])
    for step in (2, 4, 10):
        torch.save(dict(state_dict={"w": torch.randn(100)}), tmp_path / f"iter_{step}.pth")
    first, second, third = (tmp_path / f"iter_{step}.pth" for step in (2, 4, 10))
    assert latest_checkpoint(tmp_path) == (third, [])
    third.write_bytes(third.read_bytes()[:-50])  # cut short
    data = bytearray(second.read_bytes())
    place = data.index(torch.load(second)["state_dict"]["w"].numpy().tobytes())
    data[place + 7] ^= 1  # one bit
    second.write_bytes(data)
    assert not is_whole(second) and not is_whole(third)
    for age, file in enumerate((third, second, first)):
        os.utime(file, (1e9 - age, 1e9 - age))
    assert latest_checkpoint(tmp_path) == (first, [third, second])


def test_resume_passes_over_a_broken_checkpoint(run_tool, demo_root, tmp_path):
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run")
    options = ("--cfg-options", "train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=1")
    done = run_tool(*train, "--demo-iters", 3, *options)
    assert done.returncode == 0, done.stdout
    assert not list((tmp_path / "run").glob(".*"))
    newest = tmp_path / "run/iter_3.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "run/last_checkpoint").write_text("")  # as a kill while it is written leaves it
    done = run_tool(*train, "--demo-iters", 3, "--resume", *options)
    assert done.returncode == 0, done.stdout
    assert "iter_3.pth is broken or cut short" in done.stdout and "iter: 2" in done.stdout
    assert is_whole(newest)
    shutil.rmtree(tmp_path / "run")
    done = run_tool(*train, "--demo-iters", 1, "--resume", *options)
    assert done.returncode == 0 and "no checkpoint to resume from" in done.stdout


class Net(nn.Module):
    """A model of mmengine's interface: BatchNorm and a linear layer, whose loss is the mean of its output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))

    def val_step(self, data):
        torch.rand(3), np.random.random()
        return [self.layers(data["inputs"])]

    def train_step(self, data, optim_wrapper):
        loss = self.layers(data["inputs"]).square().mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach())


def runner(batches, tmp_path, patience=3):
    """Train a ``Net`` on these batches."""
    torch.manual_seed(0)
    return Runner(
        Net(),
        str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=x) for x in batches],
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=1,
            collate_fn=lambda samples: samples[0],
        ),
        train_cfg=dict(by_epoch=False, max_iters=len(batches)),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        custom_hooks=[dict(type="van_mm.DivergenceHook", patience=patience)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=100)),
        log_level="WARNING",
        experiment_name=f"{tmp_path.name}_{len(batches)}",
    )


def batches(*bad, number=6):
    generator = torch.Generator().manual_seed(1)
    found = [torch.randn(8, 4, generator=generator) for _ in range(number)]
    for index, value in bad:
        found[index][0, 0] = value
    return found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_batch_leaves_no_trace(value, tmp_path):
    """Weights, moments and statistics are those of a run without it."""
    good = batches()
    clean = runner(good[:2] + good[3:], tmp_path / "clean")
    clean.train()
    spoilt = runner(batches((2, value)), tmp_path / "spoilt")
    spoilt.train()
    for a, b in zip(clean.model.state_dict().values(), spoilt.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    states = [run.optim_wrapper.optimizer.state_dict()["state"] for run in (clean, spoilt)]
    assert states[0][0]["step"] == 5 and all(
        torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i]
    )


class Noise(torch.utils.data.Dataset):
    """Pictures that are another draw each time, from each of the three generators."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        draw = random.random() + np.random.random() + torch.rand(())
        return dict(inputs=index + draw * torch.ones(8, 4))


def noisy_runner(by_epoch, work_dir, name, length, resume=None):
    """A run on :class:`Noise` with dropout, that validates at its half and at its end."""
    torch.manual_seed(0)
    net = Net()
    net.layers.insert(1, nn.Dropout(0.3))
    loop = dict(by_epoch=True, max_epochs=length, val_interval=1) if by_epoch else dict(
        by_epoch=False, max_iters=6 * length, val_interval=6
    )  # fmt: skip
    loader = dict(
        dataset=Noise(),
        sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
        batch_size=2,
        collate_fn=lambda samples: dict(inputs=torch.cat([sample["inputs"] for sample in samples])),
    )
    return Runner(
        net,
        str(work_dir),
        train_dataloader=loader,
        val_dataloader=dict(loader, sampler=dict(type="DefaultSampler", shuffle=False)),
        val_evaluator=Nothing(),
        val_cfg=dict(),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=dict(type="LinearLR", start_factor=0.1, end=20, by_epoch=False),
        custom_hooks=[dict(type="van_mm.ExactResumeHook"), dict(type="EMAHook")],
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", by_epoch=by_epoch, interval=1 if by_epoch else 4),
            sampler_seed=dict(type="DistSamplerSeedHook"),
        ),
        randomness=dict(seed=5),
        resume=resume is not None,
        load_from=resume and str(resume),
        log_level="WARNING",
        experiment_name=name,
    )


class Nothing(Evaluator):
    """An evaluator that finds nothing."""

    def __init__(self):
        super().__init__([])

    def process(self, data_samples, data_batch=None):
        random.random()

    def evaluate(self, size):
        return dict(nothing=0.0)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_resume_is_exact(by_epoch, tmp_path):
    """In both loops: order of the data, augmentation, dropout, averages, schedule, and validation in between."""
    whole = noisy_runner(by_epoch, tmp_path / "a", f"a{by_epoch}", 4)
    whole.train()
    noisy_runner(by_epoch, tmp_path / "b", f"b{by_epoch}", 4).train()
    last = "epoch_4.pth" if by_epoch else "iter_24.pth"
    expected = torch.load(tmp_path / "a" / last, weights_only=False)
    for stop in ("epoch_2.pth", "epoch_3.pth") if by_epoch else ("iter_4.pth", "iter_8.pth", "iter_20.pth"):
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        resumed = noisy_runner(by_epoch, tmp_path / "c", f"c{stop}", 4, resume=tmp_path / "b" / stop)
        resumed.train()
        found = torch.load(tmp_path / "c" / last, weights_only=False)
        for part in ("state_dict", "ema_state_dict"):
            for key, value in expected[part].items():
                assert torch.equal(value, found[part][key]), (stop, part, key)
        assert expected["param_schedulers"] == found["param_schedulers"]


class Signal(Hook):
    """Sends this process a signal in training, or in the validation behind it."""

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
    """A signal in the midst of an epoch, at its last step, or in a validation loses nothing."""
    noisy_runner(by_epoch, tmp_path / "a", f"sa{by_epoch}{in_validation}", 4).train()
    last = "epoch_4.pth" if by_epoch else "iter_24.pth"
    expected = torch.load(tmp_path / "a" / last, weights_only=False)
    for step in (6,) if in_validation else (4, 5):
        work_dir = tmp_path / f"b{step}"
        stopped = noisy_runner(by_epoch, work_dir, f"sb{by_epoch}{in_validation}{step}", 4)
        stopped.register_hook(StopHook())
        stopped.register_hook(Signal(step, in_validation))
        with pytest.raises(Stopped, match="SIGUSR1: ended after iteration"):
            stopped.train()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        written, _ = latest_checkpoint(work_dir)
        assert written.name == f"iter_{step + (not in_validation)}.pth"
        assert (work_dir / "last_checkpoint").read_text() == str(written)
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        noisy_runner(by_epoch, work_dir, f"sc{by_epoch}{in_validation}{step}", 4, resume=written).train()
        found = torch.load(work_dir / last, weights_only=False)
        for part in ("state_dict", "ema_state_dict"):
            for key, value in expected[part].items():
                assert torch.equal(value, found[part][key]), (step, part, key)
        assert expected["param_schedulers"] == found["param_schedulers"]
        assert expected["meta"]["iter"] == found["meta"]["iter"]


def test_several_in_a_row_end_the_run(tmp_path):
    nan = float("nan")
    runner(batches((1, nan), (2, nan), (4, nan)), tmp_path / "scattered").train()
    with pytest.raises(UserError, match=r"3 steps in a row up to iteration 5 .*checkpoint: none.*learning rate"):
        runner(batches((2, nan), (3, nan), (4, nan)), tmp_path / "row").train()
    assert not list((tmp_path / "row").glob("*.pth"))


def test_no_checkpoint_of_weights_that_are_not_finite(tmp_path):
    run = runner(batches(), tmp_path / "run")
    run.model.layers[1].weight.data[0, 0] = float("nan")
    run._hooks = [hook for hook in run.hooks if type(hook).__name__ != "DivergenceHook"] + [
        hook for hook in run.hooks if type(hook).__name__ == "DivergenceHook"
    ]
    with pytest.raises(UserError, match="not finite"):
        run.train()
    assert not list((tmp_path / "run").glob("*.pth"))


def test_the_tool_says_what_diverged(run_tool, demo_root, tmp_path):
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", 40)
    options = ("train_dataloader.batch_size=2", "optim_wrapper.optimizer.lr=1e30", "param_scheduler=[]")
    done = run_tool(*train, "--cfg-options", *options)
    refused(done, "training diverged: 10 steps in a row", ".JPEG", "learning rate")
    assert "the step is left out (1 so far). Its files: " in done.stdout
    assert not list((tmp_path / "run").glob("*.pth"))


def test_places_that_cannot_be_written(run_tool, demo_root, tmp_path):
    (tmp_path / "file").touch()
    done = run_tool(*TRAIN, "--demo-root", demo_root, "--demo-iters", 1, "--work-dir", tmp_path / "file/run")
    refused(done, str(tmp_path / "file"))


def test_config_of_the_tools(run_tool, demo_root, tmp_path):
    """A backend of the user's own stays."""
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", 1)
    options = ("train_dataloader.batch_size=2", "default_hooks.checkpoint.backend_args.backend=local")
    assert run_tool(*train, "--cfg-options", *options).returncode == 0
    dumped = Config.fromfile(next((tmp_path / "run").glob("*.py")))
    assert dumped.default_hooks.checkpoint.backend_args.backend == "local"
    assert (tmp_path / "run/iter_1.pth").exists()


@pytest.mark.slow
def test_killed_and_resumed(run_process, demo_root):
    """The script with a few kills; it is documented with twenty."""
    script = ROOT / "tools/misc/kill_and_resume.py"
    options = ("--kills", 3, "--while-writing", 1, "--iters", 120, "--demo-root", demo_root)
    done = run_process(script, "cls/van_b0_in1k", *options)
    assert done.returncode == 0, done.stdout
    assert "killed 2 times between and 1 times while a checkpoint was written; the final weights are the same" in (
        done.stdout
    )
