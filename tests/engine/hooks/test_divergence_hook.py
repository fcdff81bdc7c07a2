"""DivergenceHook skips steps with NaN or infinite values, and stops a run that diverged."""

import warnings
from functools import partial

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.runs import Net, batches, runner
from tests.tools.test_train_test import refused
from van_mm.checkpoints.loading import match_state_dict
from van_mm.engine.hooks.divergence_hook import DivergenceHook
from van_mm.utils.errors import UserError, WeightsError

TRAIN = ("train", "cls/van_b0_in1k", "--demo", "--no-validate")


@pytest.fixture
def float16(monkeypatch):
    """Let AmpOptimWrapper scale losses on the CPU, where PyTorch's GradScaler works, too."""
    monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, "GradScaler", partial(torch.amp.GradScaler, "cpu"))


WRAPPERS = {
    "plain": {},
    "clip": dict(clip_grad=dict(max_norm=1.0)),
    "clip by value": dict(clip_grad=dict(type="value", clip_value=1.0)),
    "float16": dict(type="AmpOptimWrapper"),
    "float16, clip": dict(type="AmpOptimWrapper", clip_grad=dict(max_norm=1.0)),
    "float16, fixed scale": dict(type="AmpOptimWrapper", loss_scale=64.0),
    "bfloat16": dict(type="van_mm.BFloat16OptimWrapper"),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_bad_batch_is_skipped(wrapper, value, tmp_path, float16):
    """Weights, optimizer moments and BatchNorm statistics equal those of a run without the bad batch."""
    good = batches()
    clean = runner(good[:2] + good[3:], tmp_path / "clean", wrapper=wrapper)
    clean.train()
    with_bad_batch = runner(batches((2, value)), tmp_path / "with_bad_batch", wrapper=wrapper)
    with_bad_batch.train()
    for a, b in zip(clean.model.state_dict().values(), with_bad_batch.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    states = [run.optim_wrapper.optimizer.state_dict()["state"] for run in (clean, with_bad_batch)]
    assert states[0][0]["step"] == 5 and all(
        torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i]
    )


class Float16Net(Net):
    """A net whose output is float16, so that gradients beyond 65504 overflow there."""

    factor = 1.0

    def train_step(self, data, optim_wrapper):
        loss = (self.layers(data["inputs"]).half().float() * self.factor).square().mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach())


def test_search_for_the_loss_scale_is_not_a_divergence(tmp_path, float16, caplog):
    """Overflows halve the scale until the gradients fit. There may be more of them in a row than bad steps."""
    net = Float16Net()
    net.factor = 300.0
    run = runner(batches(number=20), tmp_path, net=net, wrapper=WRAPPERS["float16"])
    run.logger.setLevel("INFO")
    run.train()
    scale = run.optim_wrapper.loss_scaler.get_scale()
    steps = run.optim_wrapper.optimizer.state_dict()["state"][0]["step"]
    assert 1 <= scale < 2**12 and steps == 20 - torch.log2(torch.tensor(2.0**16 / scale))
    hook = next(hook for hook in run.hooks if type(hook).__name__ == "DivergenceHook")
    assert (hook.overflows, hook.skipped) == (20 - steps, 0)


@pytest.mark.parametrize("wrapper", ["float16", "float16, fixed scale"])
def test_endless_overflows_end_the_run(wrapper, tmp_path, float16):
    net = Float16Net()
    net.factor = 1e15
    number = 3 if "fixed" in wrapper else 17 + 2  # the scale falls from 2 ** 16 to 0.5 without a bad step
    with pytest.raises(UserError, match=f"3 steps in a row up to iteration {number} .*checkpoint: none"):
        runner(batches(number=30), tmp_path, net=net, wrapper=WRAPPERS[wrapper]).train()


class NaNLossNet(Net):
    """A net that logs a loss of NaN, with finite gradients."""

    def train_step(self, data, optim_wrapper):
        return {key: value * float("nan") for key, value in super().train_step(data, optim_wrapper).items()}


def test_step_with_finite_gradients_is_taken(tmp_path):
    """A loss that is not finite is no divergence as long as the weights are finite."""
    run = runner(batches(), tmp_path, net=NaNLossNet())
    run.train()
    assert run.optim_wrapper.optimizer.state_dict()["state"][0]["step"] == 6
    assert (tmp_path / "iter_6.pth").exists()
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "iteration 6: the loss is not finite, but all weights are" in log and "left out" not in log


def test_broken_weights_end_the_run_at_once(tmp_path):
    """This is what happens on a GPU where nothing reads the gradients before the step."""
    with pytest.raises(UserError, match=r"iteration 3: the loss is not finite, and neither are 4 weights.*clip_grad"):
        runner(batches((2, float("nan"))), tmp_path, check_gradients=False).train()


def test_bad_steps_are_counted_across_accumulated_batches(tmp_path):
    """The batches between two steps are no good steps."""
    nan = float("nan")
    bad = [(index, nan) for index in (1, 3, 5)]
    with pytest.raises(UserError, match="3 steps in a row up to iteration 6"):
        runner(batches(*bad, number=8), tmp_path, wrapper=dict(accumulative_counts=2)).train()


class CountReads(TorchDispatchMode):
    """Count the values that are read from tensors, which waits for the GPU."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("wrapper", "options"), [("plain", dict(check_gradients=False)), ("clip", {})])
def test_hook_reads_no_tensor(wrapper, options, tmp_path, monkeypatch):
    """Without gradients on the CPU the hook waits for nothing, and only mmengine reads the loss and the norm."""
    reads = CountReads()
    for name in ("before_step", "after_train_iter"):
        method = getattr(DivergenceHook, name)

        def counted(self, *args, method=method, **kwargs):
            with reads:
                return method(self, *args, **kwargs)

        monkeypatch.setattr(DivergenceHook, name, counted)
    runner(batches(), tmp_path / "run", wrapper=WRAPPERS[wrapper], **options).train()
    assert reads.number == 0
    runner(batches(), tmp_path / "checked", check_gradients=True).train()
    assert reads.number == 6


def test_buffers_of_minus_infinity_are_saved_and_loaded(tmp_path):
    """Attention masks are such buffers. Statistics that become infinite are an error."""
    nets = []
    for _ in range(2):
        nets.append(Net())
        nets[-1].register_buffer("mask", torch.full((2, 2), -float("inf")))
    run = runner(batches(), tmp_path / "run", net=nets[0])
    run.train()
    checkpoint = torch.load(tmp_path / "run/iter_6.pth", weights_only=True)
    assert "mask" in match_state_dict(nets[1], checkpoint)
    checkpoint["state_dict"]["layers.0.running_mean"][0] = float("inf")
    with pytest.raises(WeightsError, match="1 weights have NaN or infinite values"):
        match_state_dict(nets[1], checkpoint)
    run.model.layers[0].running_mean[0] = float("inf")
    with pytest.raises(UserError, match="layers.0.running_mean"):
        run.save_checkpoint(str(tmp_path), "bad.pth")


def test_consecutive_bad_steps_stop_the_run(tmp_path):
    nan = float("nan")
    runner(batches((1, nan), (2, nan), (4, nan)), tmp_path / "scattered").train()
    with pytest.raises(UserError, match=r"3 steps in a row up to iteration 5 .*checkpoint: none.*learning rate"):
        runner(batches((2, nan), (3, nan), (4, nan)), tmp_path / "row").train()
    assert not list((tmp_path / "row").glob("*.pth"))


def test_non_finite_weights_are_not_saved(tmp_path):
    """Every step is skipped, but weights that were not finite before the training stay so."""
    run = runner(batches(), tmp_path / "run", patience=100)
    run.model.layers[1].weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="1 weights of the model are not finite, such as layers.1.weight"):
        run.train()
    assert not list((tmp_path / "run").glob("*.pth"))


def test_tool_reports_divergence(run_tool, demo_root, tmp_path):
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", 40)
    options = ("train_dataloader.batch_size=2", "optim_wrapper.optimizer.lr=1e30", "param_scheduler=[]")
    done = run_tool(*train, "--cfg-options", *options)
    refused(done, "training diverged: 10 steps in a row", ".JPEG", "learning rate")
    assert "the step is left out (1 so far). Its files: " in done.stdout
    assert not list((tmp_path / "run").glob("*.pth"))


def test_schedulers_still_count_steps(tmp_path):
    """mmengine's schedulers replace the method that the hook replaces, and warn if it is not theirs any more."""
    run = runner(batches(), tmp_path)
    run.param_schedulers = dict(type="LinearLR", start_factor=0.1, by_epoch=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*optimizer.step.*")
        run.train()
    assert not isinstance(run.optim_wrapper.step, partial)
