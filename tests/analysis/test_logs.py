"""Curves are read from the scalars that mmengine logs."""

import json

import pytest

from van_mm.analysis.logs import extract_curves, find_logs, read_log, summarize_curves
from van_mm.utils.errors import UserError

TRAIN = [
    {"lr": 0.1, "loss": 4.0, "time": 0.5, "iter": 10, "step": 10},
    {"lr": 0.1, "loss": 2.0, "time": 0.3, "iter": 20, "step": 20},
]


def write(folder, name, lines, end=""):
    file = folder / name / "vis_data/scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(map(json.dumps, lines)) + end)
    return file


def test_curves_by_iteration(tmp_path):
    file = write(tmp_path, "1", [*TRAIN, {"mIoU": 40.0, "time": 9.0, "step": 20}], end='\n{"loss": 1')
    curves = extract_curves(read_log(file))
    assert curves["loss"] == ([10, 20], [4.0, 2.0]) and curves["mIoU"] == ([20], [40.0])
    assert curves["time"] == ([10, 20], [0.5, 0.3])  # without the time of the validation
    assert summarize_curves(curves) == dict(iterations=20, seconds_per_iteration=0.4, loss=2.0, mIoU=40.0)


def test_epochs_are_converted_to_iterations():
    """Validation metrics of an epoch-based loop are logged by epoch, and the curves give iterations."""
    lines = [TRAIN[0], {"coco/bbox_mAP": 0.1, "step": 1}, TRAIN[1], {"coco/bbox_mAP": 0.3, "step": 2}]
    assert extract_curves(lines)["coco/bbox_mAP"] == ([10, 20], [0.1, 0.3])


def test_validation_has_its_own_step():
    """A validation between two logged iterations, or after the last one, is drawn where it was."""
    lines = [*TRAIN, {"mIoU": 40.0, "step": 25}, {"loss": 1.0, "iter": 30, "step": 30}, {"mIoU": 50.0, "step": 37}]
    assert extract_curves(lines)["mIoU"] == ([25, 37], [40.0, 50.0])
    epochs = [{"loss": 2.0, "epoch": 1 + i // 2, "iter": 7 * (i // 2) + 3 * (1 + i % 2)} for i in range(6)]
    for epoch in (3, 2, 1):  # each has 7 iterations, and every third one is logged
        epochs.insert(2 * epoch, {"AP": epoch / 10, "step": epoch})
    assert extract_curves(epochs)["AP"] == ([7, 14, 21], [0.1, 0.2, 0.3])
    few = [{"AP": 0.1, "step": 1}, {"AP": 0.2, "step": 2}, *epochs]  # epochs shorter than the interval of the log
    assert extract_curves(few)["AP"][0][:2] == [7, 14]


def test_resumed_runs(tmp_path):
    write(tmp_path, "1", TRAIN)
    write(tmp_path, "2", [{"loss": 1.9, "iter": 20}, {"loss": 1.0, "iter": 30}])
    write(tmp_path, "3", [{"mIoU": 44.0, "step": 0}])  # the log of a test run
    assert [log.parts[-3] for log in find_logs(tmp_path)] == ["2"]
    lines = [line for log in find_logs(tmp_path, all_logs=True) for line in read_log(log)]
    assert extract_curves(lines)["loss"] == ([10, 20, 30], [4.0, 1.9, 1.0])


def test_summary_takes_the_best_value():
    curves = extract_curves(
        [*TRAIN, {"DUTS-TE/MAE": 0.05, "AP": float("nan")}, {"DUTS-TE/MAE": 0.04, "AP": 0.5}, {"AP": 0.2}]
    )
    assert summarize_curves(curves)["DUTS-TE/MAE"] == 0.04
    assert summarize_curves({"AP": ([1, 2, 3], [float("nan"), 0.5, 0.2])})["AP"] == 0.5


def test_missing_logs_are_refused(tmp_path):
    with pytest.raises(UserError, match="training writes one"):
        find_logs(tmp_path)
    with pytest.raises(UserError, match="no scalars"):
        read_log(write(tmp_path, "1", []))
