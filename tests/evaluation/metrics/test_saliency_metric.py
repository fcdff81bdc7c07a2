"""SaliencyMetric equals pysodmetrics on the maps that it writes, and values computed by hand."""

import os

import cv2
import numpy as np
import py_sod_metrics as sod
import pytest
import torch
from torch import multiprocessing

from tests.conftest import free_port
from van_mm.evaluation.metrics.saliency_metric import SaliencyMetric, measure_saliency_edn


def sample(saliency, truth, subset="DUTS-TE", name="a"):
    return dict(
        seg_logits=dict(data=torch.as_tensor(saliency, dtype=torch.float32)[None]),
        gt_sem_seg=dict(data=torch.as_tensor(truth)[None]),
        subset=subset,
        img_path=f"images/{name}.jpg",
    )


def evaluate(samples, **kwargs):
    metric = SaliencyMetric(**kwargs)
    for data_sample in samples:
        metric.process({}, [data_sample])
    return metric.evaluate(len(samples))


def test_equals_pysodmetrics_on_the_written_maps(tmp_path):
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
            for measure in (fm, wfm, mae, sm, em):
                measure.step(saliency, truth.astype(np.uint8) * 255)
        expected = {
            "F_max": fm.get_results()["fm"]["curve"].max(),
            "F_weighted": wfm.get_results()["wfm"],
            "MAE": mae.get_results()["mae"],
            "S_measure": sm.get_results()["sm"],
            "E_max": em.get_results()["em"]["curve"].max(),
        }
        for name, value in expected.items():
            assert metrics[f"{subset}/{name}"] == pytest.approx(value, abs=1e-6), name
    assert len(metrics) == 16


def test_values_computed_by_hand():
    """Four of eight pixels are salient: two are predicted 1, one 0 and one 128/255. One background pixel is 128/255."""
    truth = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    half = 128 / 255
    saliency = np.array([[1, 1, 0, half], [0, 0, 0, half]])
    metrics = evaluate([sample(saliency, truth)])
    assert metrics["DUTS-TE/MAE"] == pytest.approx((1 + (1 - half) + half) / 8, abs=1e-6)
    # Precision and recall: (1, 1/2) at thresholds above 128, (3/4, 3/4) from 1 to 128, and (1/2, 1) at 0.
    f = [1.3 * p * r / (0.3 * p + r) for p, r in ((1, 0.5), (0.75, 0.75), (0.5, 1))]
    assert metrics["DUTS-TE/F_max"] == pytest.approx(max(f), abs=1e-6) == f[0]
    assert metrics["DUTS-TE/F_max_PR"] == pytest.approx(f[0], abs=1e-6)


def test_mean_of_f_and_f_of_mean_precision_and_recall_differ():
    truth = np.array([[1, 1, 0, 0]])
    first = sample(np.array([[1.0, 0.0, 0.0, 0.0]]), truth)  # precision 1, recall 1/2
    second = sample(np.array([[1.0, 1.0, 1.0, 0.0]]), truth, name="b")  # precision 2/3, recall 1
    metrics = evaluate([first, second])
    f = [1.3 * p * r / (0.3 * p + r) for p, r in ((1, 0.5), (2 / 3, 1), (5 / 6, 3 / 4))]
    assert metrics["DUTS-TE/F_max"] == pytest.approx((f[0] + f[1]) / 2, abs=1e-6)
    assert metrics["DUTS-TE/F_max_PR"] == pytest.approx(f[2], abs=1e-6)


def evaluate_as_edn(maps, truths):
    """F_max and MAE of EDN's evaluator, threshold by threshold and image by image."""
    scores = []
    for threshold in np.linspace(1 / 51, 50 / 51, 50):
        precisions, recalls = [], []
        for saliency, truth in zip(maps, truths, strict=True):
            salient = saliency > threshold
            hits = (salient & truth).sum()
            precisions.append(hits / salient.sum() if salient.any() else 0)
            recalls.append(hits / truth.sum())
        precision, recall = np.mean(precisions), np.mean(recalls)
        scores.append(1.3 * precision * recall / (0.3 * precision + recall) if precision else 0)
    return max(scores), np.mean([np.abs(saliency - truth).mean() for saliency, truth in zip(maps, truths, strict=True)])


def test_edn_protocol_equals_a_plain_reference():
    rng = np.random.default_rng(2)
    maps, truths = [], []
    for i in range(5):
        truth = cv2.resize(rng.random((3, 3)), (25 + i, 31 - i)) > 0.5
        truth[3:6, 4:9] = True
        # Maps that do not reach 0 and 1, so that stretching would change them.
        maps.append((0.1 + truth * 0.2 + rng.random(truth.shape) * (0.2 + 0.1 * i)).astype(np.float32))
        truths.append(truth)
    maps[0][:2], maps[1][:2], maps[2][:] = 0, 1, 0.01
    metrics = evaluate([sample(*pair, name=str(i)) for i, pair in enumerate(zip(maps, truths, strict=True))])
    f_max, mae = evaluate_as_edn(maps, truths)
    assert metrics["DUTS-TE/F_max_EDN"] == pytest.approx(f_max, abs=1e-6)
    assert metrics["DUTS-TE/MAE_EDN"] == pytest.approx(mae, abs=1e-6)


def test_both_protocols_by_hand():
    """The second map is below all thresholds of EDN (1/51 = 0.0196 on), but perfect once it is stretched."""
    truth = np.array([[1, 1, 0, 0]])
    first = sample(np.array([[0.6, 0.2, 0.4, 0.0]]), truth)
    second = sample(np.array([[0.015, 0.015, 0.0, 0.0]]), truth, name="b")
    metrics = evaluate([first, second])
    # From 0.4 to 0.6, the first map has precision 1 and recall 1/2, and the second has 0 and 0.
    assert metrics["DUTS-TE/F_max_EDN"] == pytest.approx(1.3 * 0.5 * 0.25 / (0.3 * 0.5 + 0.25), abs=1e-6)
    assert metrics["DUTS-TE/MAE_EDN"] == pytest.approx((0.4 + 0.8 + 0.4 + 0.985 + 0.985) / 8, abs=1e-6)
    # Stretched, the second map has precision 1 and recall 1 at the same threshold.
    assert metrics["DUTS-TE/F_max_PR"] == pytest.approx(1.3 * 1 * 0.75 / (0.3 * 1 + 0.75), abs=1e-6)


@pytest.mark.parametrize(("value", "precision", "recall"), [(50 / 51 + 1e-4, 1, 0.5), (50 / 51 - 1e-4, 0, 0)])
def test_edn_thresholds_end_at_50_of_51(value, precision, recall):
    """At the highest threshold, only a value above it is salient."""
    measured = measure_saliency_edn(np.float32([[value, 0.0]]), np.array([[True, True]]))
    assert measured["precision_EDN"].shape == measured["recall_EDN"].shape == (50,)
    assert (measured["precision_EDN"][-1], measured["recall_EDN"][-1]) == (precision, recall)
    assert np.all(measured["precision_EDN"][:-1] == 1) and np.all(measured["recall_EDN"][:-1] == 0.5)


def make_samples():
    rng = np.random.default_rng(1)
    truth = np.zeros((8, 8), int)
    truth[2:6, 2:5] = 1
    return [sample(rng.random((8, 8)), truth, ("DUTS-TE", "DUT-OMRON")[i > 2], str(i)) for i in range(5)]


def evaluate_half(rank, port, out):
    """Evaluate every second sample, as DefaultSampler does. Rank 1 repeats sample 0 because 5 is odd."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.distributed.init_process_group("gloo")
    metric, samples = SaliencyMetric(), make_samples()
    for i in ((0, 2, 4), (1, 3, 0))[rank]:
        metric.process({}, [samples[i]])
    metrics = metric.evaluate(len(samples))
    if rank == 1:
        torch.save(metrics, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    multiprocessing.spawn(evaluate_half, (str(free_port()), tmp_path / "m.pth"), nprocs=2)
    assert torch.load(tmp_path / "m.pth", weights_only=False) == pytest.approx(evaluate(make_samples()))
