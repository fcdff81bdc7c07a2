"""The benchmark tool runs, and its functions measure the right quantities."""

import json

import matplotlib.image
import pytest
import torch
from mmpretrain.models.backbones import VAN as MMPretrainVAN
from mmseg.models.backbones import ResNetV1c
from torch import nn

from van_mm import VAN
from van_mm.analysis import benchmarking
from van_mm.analysis.benchmarking import (
    compute_speedup,
    count_saved_bytes,
    make_inference_call,
    make_matmul_call,
    make_training_call,
    time_alternately,
)


def test_time_alternately_takes_turns():
    calls = []
    times = time_alternately({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, warmup=1)
    assert calls == list("abababab") and {name: len(values) for name, values in times.items()} == dict(a=3, b=3)


def test_speedup_is_the_median_of_rounds():
    assert compute_speedup([2.0, 4.0, 9.0], [1.0, 1.0, 1.0])[0] == 4.0


def test_saved_bytes():
    """A linear layer saves its input and ReLU its output; weights are not counted."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
    assert count_saved_bytes(model, torch.zeros(4, 8)) == 4 * (4 * 8 + 4 * 16)


def test_training_and_inference_calls():
    model = nn.Linear(8, 2)
    make_training_call(model, torch.ones(1, 8), torch.float32)()
    assert model.weight.grad.eq(1).all()
    assert make_inference_call(model, torch.ones(1, 8), torch.bfloat16)().dtype == torch.bfloat16


def test_matmul_call(monkeypatch):
    """The call runs the matrix products of the dense convolutions, without the depthwise ones."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 4, 1))
    call = make_matmul_call(model, torch.ones(2, 3, 10, 6), torch.float32)
    shapes = []
    monkeypatch.setattr(torch, "mm", lambda *args, out: shapes.append(tuple(tuple(x.shape) for x in (*args, out))))
    call()
    assert shapes == [((30, 27), (27, 8), (30, 8)), ((30, 8), (8, 4), (30, 4))]


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_backbone(mode, run_tool, tmp_path):
    files = ("--json", tmp_path / "b.json", "--plot", tmp_path / "b.png")
    done = run_tool("analysis/benchmark", "--backbones", "b0", "--cases", "64x1", "--rounds", 2, "--mode", mode, *files)
    assert done.returncode == 0 and "geometric mean" in done.stdout, done.stdout
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["ratio"] > 0 and row["images_per_s"] == pytest.approx(1 / row["seconds"])
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_limit_onnx_and_plot(run_tool, tmp_path):
    pytest.importorskip("onnxruntime")
    files = ("--json", tmp_path / "b.json", "--plot", tmp_path / "b.png")
    names, cases = ("b0", "b1", "b2"), ("32x1", "64x32x1")
    done = run_tool("analysis/benchmark", "--backbones", *names, "--cases", *cases, "--rounds", 2, "--onnx", *files)
    assert done.returncode == 0 and "of the limit" in done.stdout and "onnxruntime" in done.stdout, done.stdout
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert len(rows) == 6 and all(row["limit_seconds"] > 0 and row["onnx_seconds"] > 0 for row in rows)
    assert matplotlib.image.imread(tmp_path / "b.png").shape[1] > 3 * 5 * 120  # three panels


def test_whole_model(run_tool):
    done = run_tool("analysis/benchmark", "--configs", "seg/upernet_van_b0", "--cases", "64x96x1", "--rounds", 2)
    assert done.returncode == 0 and "seg/upernet_van_b0" in done.stdout, done.stdout


def test_swapped_model(run_tool, monkeypatch):
    """The reference is the config with its original backbone, or mmpretrain's VAN if that is already the same VAN."""
    timed = []

    def record_model(model, images, dtype):
        timed.append((type(model.model.backbone), tuple(images.shape)))
        return lambda: None

    monkeypatch.setattr(benchmarking, "make_inference_call", record_model)
    name = "mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512"
    case = ("--cases", "64x96x1", "--rounds", 2)
    done = run_tool("analysis/benchmark", "--configs", name, "seg/upernet_van_b0", "--backbone", "b0", *case)
    assert done.returncode == 0, done.stdout
    shape = (1, 3, 64, 96)
    assert timed == [(VAN, shape), (ResNetV1c, shape), (VAN, shape), (MMPretrainVAN, shape)]
    done = run_tool("analysis/benchmark", "--configs", name, *case)
    assert done.returncode == 1 and "has no VAN; put one in with --backbone" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "big"], "SIDExBATCH"),
        (["--configs", "seg/upernet_van_b9"], "no config"),
        (["--configs", "seg/upernet_van_b2", "--mode", "train"], "inference"),
        (["--onnx", "--mode", "train"], "--onnx times"),
        (["--backbone", "b0"], "goes with --configs"),
        pytest.param(
            ["--device", "cuda"],
            "no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_invalid_arguments(arguments, message, run_tool):
    done = run_tool("analysis/benchmark", *arguments)
    assert done.returncode == 1 and message in done.stdout
