"""A run resumes with another length, batch size, data set or schedule, and a finished run is evaluated."""

import random

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from tests.engine.runs import Net, Noise
from van_mm.engine.hooks.exact_resume_hook import ExactResumeHook

COSINE = dict(type="CosineAnnealingLR", eta_min=0)
POLY = dict(type="PolyLR", eta_min=0, power=0.9)
WARMUP = dict(type="LinearLR", start_factor=0.1, begin=0, end=3, by_epoch=False)


class Images(Noise):
    """Numbered samples."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return dict(super().__getitem__(index), index=index)


class CountingEvaluator(Evaluator):
    """An evaluator without metrics that counts its evaluations."""

    def __init__(self):
        super().__init__([])
        self.evaluations = 0

    def process(self, data_samples, data_batch=None):
        pass

    def evaluate(self, size):
        self.evaluations += 1
        return dict(figure=1.0)


class Recorder(ExactResumeHook):
    """An ExactResumeHook that records the learning rate and the images of each step."""

    def __init__(self):
        super().__init__()
        self.rates, self.batches, self.indices = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        super().before_train_iter(runner, batch_idx, data_batch)
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])
        self.batches.append(len(data_batch["inputs"]) // 8)
        self.indices.append(data_batch["indices"])


def run(work_dir, length, *, by_epoch=True, schedule=(), batch_size=2, images=6, resume=None, lr=0.1, val=False):
    """Train, and return the runner, the hook and the evaluator."""
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    hook, evaluator = Recorder(), CountingEvaluator()
    loop = dict(by_epoch=True, max_epochs=length) if by_epoch else dict(by_epoch=False, max_iters=length)
    if val:
        loop["val_interval"] = length
    loader = dict(
        dataset=Images(images),
        sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
        batch_size=batch_size,
        collate_fn=lambda samples: dict(
            inputs=torch.cat([sample["inputs"] for sample in samples]), indices=[sample["index"] for sample in samples]
        ),
    )
    validation = dict(loader, sampler=dict(type="DefaultSampler", shuffle=False))
    runner = Runner(
        Net(),
        str(work_dir),
        train_dataloader=loader,
        train_cfg=loop,
        **(dict(val_dataloader=validation, val_evaluator=evaluator, val_cfg=dict()) if val else {}),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=lr, weight_decay=0.01), paramwise_cfg=dict(norm_decay_mult=0.0)
        ),
        param_scheduler=[dict(one) for one in schedule] or None,
        custom_hooks=[hook],
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1),
            sampler_seed=dict(type="DistSamplerSeedHook"),
        ),
        randomness=dict(seed=5),
        resume=resume is not None,
        load_from=resume and str(resume),
        log_level="WARNING",
        experiment_name=f"{work_dir.name}_{random.random()}_{np.random.random()}_{id(hook)}",
    )
    runner.train()
    return runner, hook, evaluator


@pytest.fixture
def warnings(monkeypatch):
    """Return a function that returns the warnings of the runs so far, as one text."""
    texts = []
    monkeypatch.setattr(MMLogger, "warning", lambda self, text, *args, **kwargs: texts.append(text))
    return lambda: "\n".join(texts)


def make_schedule(kind, end, by_epoch):
    schedule = dict(kind, end=end, by_epoch=by_epoch, begin=0)
    return [WARMUP, dict(schedule, T_max=end) if kind is COSINE else schedule]


@pytest.mark.parametrize("kind", [COSINE, POLY, dict(type="MultiStepLR", milestones=[2, 4], gamma=0.1)])
@pytest.mark.parametrize("by_epoch", [True, False])
def test_longer_run_follows_the_config(kind, by_epoch, tmp_path, warnings):
    """The learning rates of a lengthened run are those of a run that had the longer schedule from the start."""
    if "milestones" in kind:
        short, long = [dict(kind, by_epoch=by_epoch)], [dict(kind, by_epoch=by_epoch, milestones=[3, 6])]
    else:
        short, long = make_schedule(kind, 4, by_epoch), make_schedule(kind, 8, by_epoch)
    first, _, _ = run(tmp_path / "a", 4, by_epoch=by_epoch, schedule=short)
    _, expected, _ = run(tmp_path / "b", 8, by_epoch=by_epoch, schedule=long)
    checkpoint = tmp_path / f"a/iter_{first.iter}.pth"
    if by_epoch:  # written before the epoch's end: its end is written by epoch
        first.save_checkpoint(str(tmp_path / "a"), "epoch_4.pth", meta=dict(epoch=4, iter=first.iter))
        checkpoint = tmp_path / "a/epoch_4.pth"
    _, resumed, _ = run(tmp_path / "c", 8, by_epoch=by_epoch, schedule=long, resume=checkpoint)
    assert resumed.rates == pytest.approx(expected.rates[first.iter :])
    assert resumed.rates[0] > 0 and len(set(resumed.rates)) > 1
    unit = "epochs" if by_epoch else "iterations"
    assert "another schedule" in warnings() and f"4 {unit}, now 8" in warnings() and "follows the config" in warnings()


def test_same_schedule_is_silent(tmp_path, warnings):
    schedule = make_schedule(COSINE, 8, False)
    run(tmp_path / "a", 8, by_epoch=False, schedule=schedule)
    run(tmp_path / "b", 8, by_epoch=False, schedule=schedule, resume=tmp_path / "a/iter_4.pth")
    assert "resume:" not in warnings()


@pytest.mark.parametrize("schedule", [(), make_schedule(COSINE, 8, False)])
def test_lower_learning_rate(schedule, tmp_path, warnings):
    """Another learning rate in the config takes effect, as a run that diverged needs it."""
    run(tmp_path / "a", 8, by_epoch=False, schedule=schedule)
    _, expected, _ = run(tmp_path / "b", 8, by_epoch=False, schedule=schedule, lr=0.01)
    _, resumed, _ = run(tmp_path / "c", 8, by_epoch=False, schedule=schedule, lr=0.01, resume=tmp_path / "a/iter_4.pth")
    assert resumed.rates == pytest.approx(expected.rates[4:])
    assert "0.1, now 0.01" in warnings()


@pytest.mark.parametrize(
    ("checkpoint", "changes", "length", "batches"),
    [
        ("iter_4.pth", dict(batch_size=3), 2, [3, 3, 3, 3]),  # from the middle of epoch 2
        ("iter_4.pth", dict(batch_size=1), 6, [1] * 12),
        ("epoch_2.pth", dict(batch_size=1), 6, [1] * 6),  # from the end of an epoch
        ("epoch_2.pth", dict(batch_size=3), 2, [3, 3]),
        ("epoch_2.pth", dict(images=2), 1, [2]),  # fewer images
        ("iter_4.pth", dict(images=2), 1, [2, 2]),
        ("iter_4.pth", {}, 3, [2, 2, 2, 2, 2]),  # unchanged: the position is kept
    ],
)
def test_another_loader_length(checkpoint, changes, length, batches, tmp_path, warnings):
    """No epoch is passed over, and none ends early: three epochs have their batches from the boundary on."""
    first, _, _ = run(tmp_path / "a", 2)
    first.save_checkpoint(str(tmp_path / "a"), "epoch_2.pth", meta=dict(epoch=2, iter=first.iter))
    resumed, hook, _ = run(tmp_path / "b", 3, resume=tmp_path / "a" / checkpoint, **changes)
    assert hook.batches == batches
    assert len(resumed.train_dataloader) == length and resumed.iter == 3 * length
    assert ("starts from its first batch" in warnings()) == bool(changes)
    if changes:
        assert f"{length} batches per epoch, and 3 before" in warnings()


def test_another_batch_size_by_iteration(tmp_path, warnings):
    """The run continues after as many samples as before, also from a checkpoint of such a run."""
    _, expected, _ = run(tmp_path / "a", 12, by_epoch=False)
    _, hook, _ = run(tmp_path / "b", 8, by_epoch=False, batch_size=1, resume=tmp_path / "a/iter_4.pth")
    assert (
        hook.indices == [[index] for index in sum(expected.indices[4:6], [])]
        and "after the first 8 samples" in warnings()
    )
    assert "samples_per_step 2, now 1" in warnings()
    _, hook, _ = run(tmp_path / "c", 10, by_epoch=False, resume=tmp_path / "b/iter_8.pth")
    assert hook.indices == expected.indices[6:8] and "after the first 12 samples" in warnings()


def test_another_data_set_by_iteration(tmp_path, warnings):
    run(tmp_path / "a", 4, by_epoch=False)
    _, hook, _ = run(tmp_path / "b", 6, by_epoch=False, images=40, resume=tmp_path / "a/iter_4.pth")
    assert len(hook.indices) == 2 and "dataset_length 6, now 40" in warnings()


def test_checkpoints_of_mmengine(tmp_path):
    """Checkpoints that this hook has not written resume at the same places."""
    first, _, _ = run(tmp_path / "a", 2)
    first.save_checkpoint(str(tmp_path / "a"), "epoch_2.pth", meta=dict(epoch=2, iter=first.iter))
    for name in ("epoch_2.pth", "iter_4.pth"):
        file = tmp_path / "a" / name
        content = torch.load(file, weights_only=False)
        del content["loader_length"]
        torch.save(content, file)
    for name, changes, batches in [
        ("epoch_2.pth", dict(batch_size=1), [1] * 6),
        ("iter_4.pth", dict(batch_size=3), [3] * 4),
        ("iter_4.pth", {}, [2] * 5),
    ]:
        _, hook, _ = run(tmp_path / "b", 3, resume=tmp_path / "a" / name, **changes)
        assert hook.batches == batches, (name, changes)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_finished_run_is_evaluated(by_epoch, tmp_path, warnings):
    """A run that was killed in its last validation, or has finished, evaluates when it is resumed."""
    first, _, evaluator = run(tmp_path / "a", 2, by_epoch=by_epoch, val=True)
    assert evaluator.evaluations == 1
    first.save_checkpoint(str(tmp_path / "a"), "last.pth", meta=dict(epoch=2 * by_epoch, iter=first.iter))
    resumed, hook, evaluator = run(tmp_path / "b", 2, by_epoch=by_epoch, val=True, resume=tmp_path / "a/last.pth")
    assert hook.batches == [] and evaluator.evaluations == 1
    assert "the run is finished" in warnings() and "validation is repeated" in warnings()
    run(tmp_path / "c", 2, by_epoch=by_epoch, resume=tmp_path / "a/last.pth")
    assert "Evaluate it with tools/test.py" in warnings()
    _, hook, evaluator = run(tmp_path / "d", 3, by_epoch=by_epoch, val=True, resume=tmp_path / "a/last.pth")
    assert hook.batches and evaluator.evaluations == 1  # only its own validation
