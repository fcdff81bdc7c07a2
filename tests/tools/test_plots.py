"""The tools that plot training logs and the trade-offs of the paper."""

import json

import cv2

from tests.analysis.test_logs import TRAIN, write
from tests.tools.test_train_test import refused


def test_tradeoffs(run_tool, tmp_path):
    rows = [
        dict(model=name, case="224x8", mode="infer", images_per_s=rate)
        for name, rate in (("b0", 90.0), ("b2", 20.0), ("swin-t", 12.0), ("resnet-50", 30.0))
    ]
    bench = dict(machine=dict(device="x86_64", threads=2), rows=rows)
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    plain = run_tool("analysis/plot_tradeoffs", "--out-dir", tmp_path / "plain")
    assert plain.returncode == 0, plain.stdout
    measured = run_tool(
        "analysis/plot_tradeoffs", "--benchmark", tmp_path / "bench.json", "--out-dir", tmp_path / "measured"
    )
    assert measured.returncode == 0, measured.stdout
    for name in ("throughput", "tasks", "cost"):
        assert cv2.imread(str(tmp_path / f"plain/{name}.png")).std() > 0
    widths = [cv2.imread(str(tmp_path / f"{which}/throughput.png")).shape[1] for which in ("plain", "measured")]
    assert widths[1] == 2 * widths[0]  # measured rates get a second panel
    for content in ("no json", "{}", json.dumps(dict(bench, rows=[dict(rows[0], mode="train")]))):
        (tmp_path / "bad.json").write_text(content)
        refused(run_tool("analysis/plot_tradeoffs", "--benchmark", tmp_path / "bad.json"), "bad.json")


def test_logs(run_tool, tmp_path):
    for run in ("first", "second"):
        write(tmp_path / run, "1", [*TRAIN, {"mIoU": 40.0, "aAcc": 80.0, "step": 20}])
    logs = ("analysis/analyze_logs", tmp_path / "first", tmp_path / "second", "--out", tmp_path / "logs.png")
    done = run_tool(*logs, "--json", tmp_path / "logs.json")
    assert done.returncode == 0, done.stdout
    table = json.loads((tmp_path / "logs.json").read_text())
    assert list(table) == ["first", "second"] and table["first"]["mIoU"] == 40.0
    all_keys = cv2.imread(str(tmp_path / "logs.png")).shape
    assert run_tool(*logs, "--keys", "mIoU").returncode == 0
    assert cv2.imread(str(tmp_path / "logs.png")).shape[1] < all_keys[1]
    refused(run_tool(*logs, "--keys", "PQ"), "these runs have loss", "mIoU")
    refused(run_tool("analysis/analyze_logs", tmp_path), "training writes one")
