"""tools/train.py resumes what is asked for, from dumped configs as well, and evaluates finished runs."""

import json
import os
import runpy
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import ImageClassifier

from tests.conftest import ROOT
from van_mm.apis.run_config import add_guards, get_run_config
from van_mm.engine.hooks import ExactResumeHook
from van_mm.utils.config_walk import get_type_name

TRAIN = ("--demo", "--cfg-options", "train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=1")


@pytest.fixture
def train(run_tool, demo_root, tmp_path):
    """Return a function that trains in ``run/`` for some iterations, and returns its output."""

    def run(config, iterations, *flags):
        paths = ("--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", iterations)
        done = run_tool("train", config, *TRAIN, *paths, *flags)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_guards_are_added_once(tmp_path):
    cfg = get_run_config("cls/van_b0_in1k")
    cfg.dump(tmp_path / "dumped.py")
    again = get_run_config(str(tmp_path / "dumped.py"))
    names = [str(hook.type) for hook in again.custom_hooks]
    assert len(names) == len(set(names)) == len(cfg.custom_hooks)
    cfg.custom_hooks = [dict(type=ExactResumeHook), dict(type="DivergenceHook", patience=3)]
    add_guards(cfg)
    names = [get_type_name(hook) for hook in cfg.custom_hooks]
    assert len(names) == len(set(names)) and cfg.custom_hooks[1].patience == 3


def test_dumped_config_resumes_only_when_asked(train, tmp_path):
    train("cls/van_b0_in1k", 2, "--no-validate")
    text = train("cls/van_b0_in1k", 3, "--no-validate", "--resume")
    assert "resumed epoch: 0, iter: 2" in text
    dumped = tmp_path / "dumped.py"
    shutil.copy(tmp_path / "run/van_b0_in1k.py", dumped)
    assert Config.fromfile(dumped).resume
    for path in (tmp_path / "run").glob("*.pth"):
        os.utime(path, (1e9, 1e9 - int(path.stem[5:])))  # the older, the newer
    text = train(dumped, 4, "--no-validate", "--resume")
    assert "resumed epoch: 0, iter: 3" in text and "another schedule" in text and "3 iterations, now 4" in text
    text = train(dumped, 4, "--no-validate")
    assert "Add --resume" in text and "resumed epoch" not in text
    shutil.rmtree(tmp_path / "run")
    text = train(dumped, 1, "--no-validate", "--resume")
    assert "no checkpoint to resume from" in text and "resumed epoch" not in text


def test_finished_run(train, tmp_path):
    train("cls/van_b0_in1k", 1, "--no-validate")
    text = train("cls/van_b0_in1k", 1, "--resume")
    assert "the run is finished" in text and "accuracy/top1" in text
    text = train("cls/van_b0_in1k", 1, "--resume", "--no-validate")
    assert "the run is finished" in text and "tools/test.py" in text and "iter_1.pth" in text


def test_metrics_as_json(monkeypatch):
    """Metrics that give lists, arrays or dicts can be written."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    to_plain = runpy.run_path(str(ROOT / "tools/test.py"))["to_plain"]
    metrics = dict(a=1, b=[0.5, torch.tensor(2.0)], c=np.array([[1, 2]]), d=dict(e=np.float32(0.5)), f="road", g=None)
    assert json.loads(json.dumps({key: to_plain(value) for key, value in metrics.items()})) == dict(
        a=1.0, b=[0.5, 2.0], c=[[1.0, 2.0]], d=dict(e=0.5), f="road", g=None
    )


def test_checkpoint_is_read_once(train, monkeypatch, tmp_path):
    """The weights are read once. The checkpoint is chosen by its meta data, which a memory map gives."""
    train("cls/van_b0_in1k", 1, "--no-validate")
    reads, load = [], torch.load

    def count(path, *args, **kwargs):
        if str(path).endswith("iter_1.pth") and not kwargs.get("mmap"):
            reads.append(path)
        return load(path, *args, **kwargs)

    monkeypatch.setattr(torch, "load", count)
    assert "resumed epoch: 0, iter: 1" in train("cls/van_b0_in1k", 2, "--no-validate", "--resume")
    assert len(reads) == 1


def test_dumped_config_resumes_within_an_epoch(run_tool, demo_root, tmp_path, monkeypatch):
    """The dumped config of an epoch-based run resumes in the midst of an epoch, and leaves out one step with a NaN."""
    cfg = get_run_config("cls/van_b0_in1k", demo=True, demo_root=str(demo_root))
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=10)
    cfg.train_dataloader.update(batch_size=2, num_batch_per_epoch=3, sampler=dict(type="DefaultSampler", shuffle=True))
    cfg.default_hooks.checkpoint.update(interval=2)
    cfg.dump(tmp_path / "first.py")
    train = ("--work-dir", tmp_path / "run", "--no-validate")
    assert run_tool("train", tmp_path / "first.py", *train).returncode == 0
    (tmp_path / "run/iter_6.pth").unlink()
    steps, loss = [], ImageClassifier.loss

    def compute_loss(self, *args, **kwargs):
        steps.append(len(steps))
        losses = loss(self, *args, **kwargs)
        return dict(losses, loss=losses["loss"] * (float("nan") if len(steps) == 1 else 1))

    monkeypatch.setattr(ImageClassifier, "loss", compute_loss)
    done = run_tool("train", tmp_path / "run/first.py", *train, "--resume")
    assert done.returncode == 0 and "resumed epoch: 1, iter: 4" in done.stdout, done.stdout
    assert len(steps) == 2 and done.stdout.count("not finite") == 1, done.stdout
    assert (tmp_path / "run/iter_6.pth").exists()
