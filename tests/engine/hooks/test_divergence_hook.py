"""DivergenceHook skips steps with NaN or infinite values, and stops a run that diverged."""

import pytest
import torch

from tests.engine.runs import batches, runner
from tests.tools.test_train_test import refused
from van_mm.utils.errors import UserError

TRAIN = ("train", "cls/van_b0_in1k", "--demo", "--no-validate")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_batch_is_skipped(value, tmp_path):
    """Weights, optimizer moments and BatchNorm statistics equal those of a run without the bad batch."""
    good = batches()
    clean = runner(good[:2] + good[3:], tmp_path / "clean")
    clean.train()
    with_bad_batch = runner(batches((2, value)), tmp_path / "with_bad_batch")
    with_bad_batch.train()
    for a, b in zip(clean.model.state_dict().values(), with_bad_batch.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    states = [run.optim_wrapper.optimizer.state_dict()["state"] for run in (clean, with_bad_batch)]
    assert states[0][0]["step"] == 5 and all(
        torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i]
    )


def test_consecutive_bad_steps_stop_the_run(tmp_path):
    nan = float("nan")
    runner(batches((1, nan), (2, nan), (4, nan)), tmp_path / "scattered").train()
    with pytest.raises(UserError, match=r"3 steps in a row up to iteration 5 .*checkpoint: none.*learning rate"):
        runner(batches((2, nan), (3, nan), (4, nan)), tmp_path / "row").train()
    assert not list((tmp_path / "row").glob("*.pth"))


def test_non_finite_weights_are_not_saved(tmp_path):
    run = runner(batches(), tmp_path / "run")
    run.model.layers[1].weight.data[0, 0] = float("nan")
    run._hooks = [hook for hook in run.hooks if type(hook).__name__ != "DivergenceHook"] + [
        hook for hook in run.hooks if type(hook).__name__ == "DivergenceHook"
    ]
    with pytest.raises(UserError, match="not finite"):
        run.train()
    assert not list((tmp_path / "run").glob("*.pth"))


def test_tool_reports_divergence(run_tool, demo_root, tmp_path):
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", 40)
    options = ("train_dataloader.batch_size=2", "optim_wrapper.optimizer.lr=1e30", "param_scheduler=[]")
    done = run_tool(*train, "--cfg-options", *options)
    refused(done, "training diverged: 10 steps in a row", ".JPEG", "learning rate")
    assert "the step is left out (1 so far). Its files: " in done.stdout
    assert not list((tmp_path / "run").glob("*.pth"))
