"""A signal stops a run after a checkpoint, and the resumed run loses nothing."""

import os
import random
import signal

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from tests.engine.runs import noisy_runner
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
    last = "epoch_4.pth" if by_epoch else "iter_24.pth"
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
