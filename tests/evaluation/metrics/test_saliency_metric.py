"""The saliency metric against pysodmetrics on the maps that it writes, and against a case done by hand."""

import os
import socket

import cv2
import numpy as np
import py_sod_metrics as sod
import pytest
import torch
from torch import multiprocessing

from van_mm.evaluation.metrics.saliency_metric import SaliencyMetric


def sample(saliency, truth, subset="DUTS-TE", name="a"):
    return dict(
        seg_logits=dict(data=torch.as_tensor(saliency, dtype=torch.float32)[None]),
        gt_sem_seg=dict(data=torch.as_tensor(truth)[None]),
        subset=subset,
        img_path=f"images/{name}.jpg",
    )


def evaluate(samples, **kwargs):
    metric = SaliencyMetric(**kwargs)
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def test_equals_pysodmetrics_on_the_files(tmp_path):
    rng = np.random.default_rng(0)
    samples, truths = [], {}
    for i in range(6):
        height, width = rng.integers(20, 50, 2)
        truth = cv2.resize(rng.random((3, 3)), (int(width), int(height))) > 0.5
        truth[2:6, 2:6] = True
        saliency = np.clip(truth * 0.6 + rng.random(truth.shape) * 0.5, 0, 1)
        subset = ("DUTS-TE", "PASCAL-S")[i % 2]
        truths.setdefault(subset, {})[f"im{i}"] = truth
        samples.append(sample(saliency, truth, subset, f"im{i}"))
    metrics = evaluate(samples, output_dir=str(tmp_path))
    for subset, masks in truths.items():
        fm, wfm, mae, sm, em = sod.Fmeasure(), sod.WeightedFmeasure(), sod.MAE(), sod.Smeasure(), sod.Emeasure()
        for name, truth in masks.items():
            saliency = cv2.imread(str(tmp_path / subset / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            assert saliency.dtype == np.uint8 and saliency.shape == truth.shape
            for judge in (fm, wfm, mae, sm, em):
                judge.step(saliency, truth.astype(np.uint8) * 255)
        expected = {
            "F_max": fm.get_results()["fm"]["curve"].max(),
            "F_weighted": wfm.get_results()["wfm"],
            "MAE": mae.get_results()["mae"],
            "S_measure": sm.get_results()["sm"],
            "E_max": em.get_results()["em"]["curve"].max(),
        }
        for name, value in expected.items():
            assert metrics[f"{subset}/{name}"] == pytest.approx(value, abs=1e-6), name
    assert len(metrics) == 12


def test_by_hand():
    """Of four salient pixels of eight two are found in white, one pixel in black is wrong; the rest is half."""
    truth = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    half = 128 / 255
    saliency = np.array([[1, 1, 0, half], [0, 0, 0, half]])
    metrics = evaluate([sample(saliency, truth)])
    assert metrics["DUTS-TE/MAE"] == pytest.approx((1 + (1 - half) + half) / 8, abs=1e-6)
    # thresholds above a half: precision 1, recall 1/2; up to it: precision 3/4, recall 3/4; 0: precision 1/2, recall 1
    f = [1.3 * p * r / (0.3 * p + r) for p, r in ((1, 0.5), (0.75, 0.75), (0.5, 1))]
    assert metrics["DUTS-TE/F_max"] == pytest.approx(max(f), abs=1e-6) == f[0]
    assert metrics["DUTS-TE/F_max_PR"] == pytest.approx(f[0], abs=1e-6)


def test_f_of_the_mean_is_not_the_mean_of_f():
    truth = np.array([[1, 1, 0, 0]])
    first = sample(np.array([[1.0, 0.0, 0.0, 0.0]]), truth)  # precision 1, recall 1/2
    second = sample(np.array([[1.0, 1.0, 1.0, 0.0]]), truth, name="b")  # precision 2/3, recall 1
    metrics = evaluate([first, second])
    f = [1.3 * p * r / (0.3 * p + r) for p, r in ((1, 0.5), (2 / 3, 1), (5 / 6, 3 / 4))]
    assert metrics["DUTS-TE/F_max"] == pytest.approx((f[0] + f[1]) / 2, abs=1e-6)
    assert metrics["DUTS-TE/F_max_PR"] == pytest.approx(f[2], abs=1e-6)


def some_samples():
    rng = np.random.default_rng(1)
    truth = np.zeros((8, 8), int)
    truth[2:6, 2:5] = 1
    return [sample(rng.random((8, 8)), truth, ("DUTS-TE", "DUT-OMRON")[i > 2], str(i)) for i in range(5)]


def evaluate_half(rank, port, out):
    """Every second sample, as the sampler deals them out; the last one again where they do not come out even."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.distributed.init_process_group("gloo")
    metric, samples = SaliencyMetric(), some_samples()
    for i in ((0, 2, 4), (1, 3, 0))[rank]:
        metric.process({}, [samples[i]])
    metrics = metric.evaluate(len(samples))
    if rank == 1:
        torch.save(metrics, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    multiprocessing.spawn(evaluate_half, (port, tmp_path / "m.pth"), nprocs=2)
    assert torch.load(tmp_path / "m.pth", weights_only=False) == pytest.approx(evaluate(some_samples()))
