"""Counted parameters and FLOPs agree with the paper's tables, and the tool reports each difference."""

import copy
import json
from decimal import Decimal

import pytest

from van_mm import get_config, list_configs
from van_mm.analysis.complexity import count_complexity
from van_mm.paper.tables import check_row, count_lka_parameters, equals_printed, find_measured_metrics, load_paper

pytestmark = pytest.mark.xdist_group("paper tables")  # runs in one process, which counts each model once
TABLES = load_paper()["tables"]
ROWS = [(number, row) for number, table in TABLES.items() for row in table["rows"]]


def test_every_config_is_a_row_and_every_row_has_a_config():
    configs = {row["config"] for _, row in ROWS if "config" in row}
    pretraining = {f"cls/van_{size}_in22k" for size in ("b4", "b5", "b6")}
    assert set(list_configs()) - configs == pretraining
    assert configs <= set(list_configs())
    without_config = {(number, row["row"]) for number, row in ROWS if "config" not in row}
    assert without_config == {
        *((2, row["row"]) for row in TABLES[2]["rows"]),
        *((4, f"Swin-{s}") for s in "TSB"),
    }


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[f"{number}-{row['row']}" for number, row in ROWS])
def test_row(number, row):
    """Parameters agree to the printed digit and FLOPs within 2% or rounding, except in rows that state the reason."""
    check = check_row(TABLES[number], row)
    assert set(check["wrong"]) == set(row.get("known", {}))
    counted = {"params", "flops"} if "config" in row else {"lka"} if number == 2 else set()
    assert counted & {*row, *TABLES[number].get("counts", ())} <= set(check["here"])


def test_equation_3_is_smallest_at_dilation_3():
    assert min(range(1, 22), key=lambda d: count_lka_parameters(64, 21, d)) == TABLES[2]["best_dilation"] == 3


def test_printed_numbers_keep_their_decimals():
    row = TABLES[6]["rows"][3]
    assert str(row["flops"]) == "0.90"
    assert equals_printed(0.8951e9, row["flops"], 1e9) and not equals_printed(0.8949e9, row["flops"], 1e9)
    assert equals_printed(199.6e6, 200, 1e6) and not equals_printed(199.4e6, 200, 1e6)
    assert equals_printed(4.049e6, Decimal("4.0"), 1e6) and not equals_printed(4.051e6, Decimal("4.0"), 1e6)


def test_measured_metrics(tmp_path):
    folder = tmp_path / "upernet_van_b2" / "20260101_000000"
    (folder / "vis_data").mkdir(parents=True)
    scalars = folder / "vis_data/scalars.json"
    lines = [{"loss": 1.0, "step": 1}, {"mIoU": 20.0, "step": 2}, {"loss": 0.5, "step": 3}, {"mIoU": 49.9, "step": 4}]
    scalars.write_text("\n".join(map(json.dumps, lines)) + '\n{"mIoU": 5')  # the last line is incomplete
    config = "seg/upernet_van_b2"
    assert find_measured_metrics(config, TABLES[12], tmp_path) == {"mIoU": 49.9}
    assert find_measured_metrics("seg/upernet_van_b3", TABLES[12], tmp_path) == {}


def test_tool(run_tool, tmp_path):
    done = run_tool(
        "analysis/paper_tables", "--table", 2, 15, "--json", tmp_path / "t.json", "--markdown", tmp_path / "t.md"
    )
    assert done.returncode == 0, done.stdout
    assert "| 30.3 / 30.27 | 6.1 / 6.04 | 74.9 / - |" in done.stdout
    assert "### Table 2" in (tmp_path / "t.md").read_text()
    rows = json.loads((tmp_path / "t.json").read_text())["15"]
    assert rows[0]["config"] == "pose/simplebaseline_van_b2_coco_256x192" and rows[0]["wrong"] == []
    done = run_tool("analysis/paper_tables", "--table", 1)
    assert done.returncode == 1 and "no table" in done.stdout


def test_chosen_configs(run_tool, tmp_path):
    """--configs counts upstream configs and configs of van_mm, unchanged and with VAN; metrics of runs are included."""
    run = tmp_path / "work_dirs/swin-tiny_16xb64_in1k_van_b0/20260101_000000"
    run.mkdir(parents=True)
    (run / "20260101_000000.json").write_text('{"accuracy/top1": 75.0}')
    names = ("mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py", "cls/van_b0_in1k")
    done = run_tool("analysis/paper_tables", "--configs", *names, "--backbone", "b0", "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stdout
    swin, swapped, van = (row["here"] for row in json.loads((tmp_path / "t.json").read_text())["0"])
    assert swin["params"] == pytest.approx(28.29, abs=0.01) and swin["flops"] == pytest.approx(4.49, abs=0.01)
    assert swapped == dict(van, top1=75.0)  # van_b0_in1k has the same head
    assert "| - / 75.0 |" in done.stdout
    done = run_tool("analysis/paper_tables", "--backbone", "b0")
    assert done.returncode == 1 and "go with --configs" in done.stdout


@pytest.mark.parametrize(
    ("name", "params", "flops", "within"),
    [
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco", 41.53, 207, 0.01),  # as MMDetection 2 counts it
        # Published in the paper of Deformable DETR, whose count leaves out the norms.
        ("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco", 40, 173, 0.15),
    ],
)
def test_complexity_of_upstreams_models(name, params, flops, within):
    """Counts agree with published ones, also if a model can't run on the meta device; the config is unchanged."""
    cfg = get_config(name)
    before = copy.deepcopy(cfg._cfg_dict)
    counted = count_complexity(cfg, (800, 1280))
    assert counted[0] / 1e6 == pytest.approx(params, rel=0.01) and counted[1] / 1e9 == pytest.approx(flops, rel=within)
    assert cfg._cfg_dict == before


def test_tool_reports_a_wrong_number(run_tool, monkeypatch):
    monkeypatch.setitem(TABLES[15]["rows"][0], "params", Decimal("30.4"))
    done = run_tool("analysis/paper_tables", "--table", 15)
    assert done.returncode == 1 and "table 15, VAN-B2, 256x192: params" in done.stdout
    assert "30.4 / 30.27 !" in done.stdout
