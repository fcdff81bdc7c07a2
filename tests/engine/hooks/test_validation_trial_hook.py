"""The validation is tried on one batch before the training starts, and leaves no trace."""

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from tests.engine.runs import Net, Noise
from van_mm.engine.hooks import ValidationTrialHook
from van_mm.utils.errors import UserError
from van_mm.utils.random_state import get_random_state


class Metric(BaseMetric):
    """A metric that gives the number of results, after an action."""

    def __init__(self, in_process=None, in_compute=None, **options):
        super().__init__(prefix="my")
        self.in_process, self.in_compute, self.processed = in_process, in_compute, []
        self.tmp_dir = tempfile.TemporaryDirectory()
        for key, value in options.items():
            setattr(self, key, value)

    def process(self, data_batch, data_samples):
        if self.in_process:
            raise self.in_process
        self.results.extend(data_samples)
        self.processed.append(len(data_samples))
        if "output_dir" in vars(self):
            Path(self.output_dir, "map.png").touch()

    def compute_metrics(self, results):
        if self.in_compute:
            raise self.in_compute
        return dict(number=len(results), rows=[1.0, 2.0])


class Accuracy(Metric):
    """A metric that is known to work on a part of the data."""


def make_runner(tmp_path, metrics, save_best=None, **checkpoint):
    torch.manual_seed(0)
    loader = dict(
        dataset=Noise(),
        sampler=dict(type="DefaultSampler", shuffle=False),
        batch_size=3,
        collate_fn=lambda samples: dict(inputs=torch.cat([sample["inputs"] for sample in samples])),
    )
    return Runner(
        Net(),
        str(tmp_path / "run"),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=metrics if isinstance(metrics, list) else [metrics],
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[ValidationTrialHook()],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", save_best=save_best, rule="greater")),
        log_level="WARNING",
        experiment_name=f"trial_{random.random()}_{id(metrics)}",
    )


@pytest.fixture
def warnings(monkeypatch):
    texts = []
    monkeypatch.setattr(MMLogger, "warning", lambda self, text, *args, **kwargs: texts.append(text))
    return texts


def test_nothing_is_changed(tmp_path):
    random.seed(1), np.random.seed(1)
    (tmp_path / "maps").mkdir()
    metric = Metric(output_dir=str(tmp_path / "maps"))
    runner = make_runner(tmp_path, [metric, DumpResults(str(tmp_path / "out.pkl"))])
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    before = get_random_state(), {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.model.train()
    ValidationTrialHook().before_train(runner)
    state = get_random_state()
    assert state["python"] == before[0]["python"] and torch.equal(state["torch"], before[0]["torch"])
    assert torch.equal(state["numpy"][1], before[0]["numpy"][1]) and state["numpy"][2] == before[0]["numpy"][2]
    assert all(torch.equal(value, before[1][key]) for key, value in runner.model.state_dict().items())
    assert runner.model.training and metric.results == [] == metric.processed
    assert Path(metric.tmp_dir.name).is_dir() and not (tmp_path / "out.pkl").exists()
    assert list((tmp_path / "maps").iterdir()) == []
    runner.train()


@pytest.mark.parametrize(
    "metric",
    [
        Metric(in_process=ValueError("no ground truth")),
        Metric(in_compute=TypeError("no ground truth")),
        Accuracy(in_compute=ValueError("no ground truth")),
    ],
)
def test_errors_come_before_the_training(metric, tmp_path):
    with pytest.raises(UserError, match=r"validation fails on its first batch: \w+: no ground truth .*--no-validate"):
        make_runner(tmp_path, metric).train()
    assert not list((tmp_path / "run").glob("*.pth"))


def test_metric_that_needs_all_data(tmp_path, warnings):
    with pytest.raises(RuntimeError, match="no prediction"):  # the real validation's
        make_runner(tmp_path, Metric(in_compute=RuntimeError("no prediction for image 3"))).train()
    assert any("Go on if it needs the whole data set" in text for text in warnings)
    assert list((tmp_path / "run").glob("*.pth"))


def test_unknown_best_key(tmp_path):
    with pytest.raises(UserError, match="save_best is 'my/mIoU', which the validation does not give.*my/number"):
        make_runner(tmp_path, Accuracy(), save_best="my/mIoU").train()
    make_runner(tmp_path, Accuracy(), save_best="my/number").train()
