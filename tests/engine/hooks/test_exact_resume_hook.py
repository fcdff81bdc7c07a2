"""A resumed run ends with exactly the state of an uninterrupted run."""

import random

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.engine.runs import noisy_runner


@pytest.mark.parametrize("by_epoch", [True, False])
def test_resume_is_exact(by_epoch, tmp_path):
    """Resuming restores the data order, augmentation, dropout, EMA and schedule, also after a validation."""
    noisy_runner(by_epoch, tmp_path / "a", f"a{by_epoch}", 4).train()
    noisy_runner(by_epoch, tmp_path / "b", f"b{by_epoch}", 4).train()
    last = "epoch_4.pth" if by_epoch else "iter_24.pth"
    expected = torch.load(tmp_path / "a" / last, weights_only=False)
    for stop in ("epoch_2.pth", "epoch_3.pth") if by_epoch else ("iter_4.pth", "iter_8.pth", "iter_20.pth"):
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        resumed = noisy_runner(by_epoch, tmp_path / "c", f"c{stop}", 4, resume=tmp_path / "b" / stop)
        resumed.train()
        actual = torch.load(tmp_path / "c" / last, weights_only=False)
        for part in ("state_dict", "ema_state_dict"):
            for key, value in expected[part].items():
                assert torch.equal(value, actual[part][key]), (stop, part, key)
        assert expected["param_schedulers"] == actual["param_schedulers"]


@pytest.mark.slow
def test_kill_and_resume_script(run_process, demo_root):
    """The script passes with 3 kills. The documentation shows a run with 20."""
    script = ROOT / "tools/misc/kill_and_resume.py"
    options = ("--kills", 3, "--while-writing", 1, "--iters", 120, "--demo-root", demo_root)
    done = run_process(script, "cls/van_b0_in1k", *options)
    assert done.returncode == 0, done.stdout
    assert "killed 2 times between and 1 times while a checkpoint was written; the final weights are the same" in (
        done.stdout
    )
