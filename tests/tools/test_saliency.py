"""Training and testing of the saliency config, and the checker of its data sets."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests.tools.test_train_test import refused
from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS

TOOL = "dataset_converters/saliency"


def test_train_then_test(run_tool, demo_root, tmp_path):
    """One test run covers three data sets and can write saliency maps, which have the sizes of the masks.

    Validation during training gives the same metrics for DUTS-TE.
    """
    demo = ("--demo", "--demo-root", demo_root, "--work-dir", tmp_path / "run")
    done = run_tool("train", "seg/edn_van_b1_duts", *demo, "--demo-iters", 2)
    assert done.returncode == 0, done.stdout
    (scalars,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    trained = json.loads(scalars.read_text().splitlines()[-1])
    test = ("test", "seg/edn_van_b1_duts", tmp_path / "run/iter_2.pth", *demo)
    done = run_tool(*test, "--out", tmp_path / "m.json", "--show-dir", tmp_path / "p")
    assert done.returncode == 0, done.stdout
    tested = json.loads((tmp_path / "m.json").read_text())
    names = {"F_max", "F_max_PR", "F_weighted", "MAE", "S_measure", "E_max", "F_max_EDN", "MAE_EDN"}
    assert set(tested) == {f"{subset}/{name}" for subset in ("DUTS-TE", "DUT-OMRON", "PASCAL-S") for name in names}
    for name in names:
        assert tested[f"DUTS-TE/{name}"] == pytest.approx(trained[f"DUTS-TE/{name}"])
    assert len(list((tmp_path / "p").glob("*.png"))) == 6
    done = run_tool(*test, "--out", tmp_path / "maps", "--fold")
    assert done.returncode == 0, done.stdout
    for subset in ("DUTS-TE", "DUT-OMRON", "PASCAL-S"):
        maps = sorted((tmp_path / "maps" / subset).iterdir())
        masks = sorted((demo_root / "saliency" / SALIENCY_LAYOUTS[subset].masks).iterdir())
        assert [m.name for m in maps] == [m.name for m in masks]
        assert [cv2.imread(str(m)).shape for m in maps] == [cv2.imread(str(m)).shape for m in masks]


def test_missing_data_set_is_reported_first(run_tool, demo_root, tmp_path):
    shutil.copytree(demo_root / "saliency", tmp_path / "data/saliency")
    shutil.rmtree(tmp_path / "data/saliency/DUTS-TE")
    done = run_tool("train", "seg/edn_van_b1_duts")
    refused(done, "DUTS-TE/DUTS-TE-Image", "(missing)", "--demo")
    assert not (tmp_path / "work_dirs").exists()


def test_a_bad_mask_ends_training_with_one_message(fork_tool, demo_root, tmp_path):
    """A worker process of the data loader finds the mask, and its traceback is not printed."""
    shutil.copytree(demo_root / "saliency", tmp_path / "demo/saliency")
    for mask in (tmp_path / "demo/saliency" / SALIENCY_LAYOUTS["DUTS-TR"].masks).iterdir():
        cv2.imwrite(str(mask), np.zeros((7, 9), np.uint8))
    demo = ("--demo", "--demo-root", tmp_path / "demo", "--cfg-options", "train_dataloader.num_workers=1")
    (fork,) = fork_tool("train", "seg/edn_van_b1_duts", *demo)
    done = fork.wait()
    refused(done, "is 9x7 pixels, its image", "tools/dataset_converters/saliency.py")
    assert "error: 2 samples of the data set can't be used, and 1 may be" in done.stdout


def test_checker_accepts_valid_data(run_tool, demo_root, tmp_path):
    done = run_tool(TOOL, demo_root / "saliency", "--any-count", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout
    assert "DUTS-TR: 6 pairs, 0 problems" in done.stdout
    assert json.loads((tmp_path / "found.json").read_text())["PASCAL-S"] == dict(pairs=2, problems=[])
    done = run_tool(TOOL, demo_root / "saliency", "--subset", "DUTS-TE")
    assert done.returncode == 1 and "2 pairs, not the 5019 that DUTS-TE has" in done.stdout


def test_checker_reports_each_problem(run_tool, demo_root, tmp_path):
    root = tmp_path / "saliency"
    shutil.copytree(demo_root / "saliency", root)
    layout = SALIENCY_LAYOUTS["DUTS-TR"]
    images, masks = sorted((root / layout.images).iterdir()), sorted((root / layout.masks).iterdir())
    size = cv2.imread(str(masks[1])).shape[:2]
    images[0].unlink()
    cv2.imwrite(str(masks[1]), np.full(size, 128, np.uint8))
    cv2.imwrite(str(masks[2]), np.zeros((5, 5), np.uint8))
    cv2.imwrite(str(masks[3]), cv2.imread(str(masks[3]), cv2.IMREAD_UNCHANGED) * 0)
    masks[4].unlink()
    images[5].write_bytes(images[5].read_bytes()[:200])
    done = run_tool(TOOL, root, "--subset", "DUTS-TR", "--any-count")
    assert done.returncode == 1
    for words in (
        f"mask {masks[0]} has no image",
        f"mask {masks[1]} is not binary: 100%",
        f"mask {masks[2]} is 5x5 pixels",
        f"mask {masks[3]} is empty",
        f"image {images[4].with_suffix('')} (.jpg) has no mask",
        f"image {images[5]} is not a readable image (200 bytes)",
    ):
        assert done.stdout.count(words) == 1, words
    assert "4 pairs, 6 problems" in done.stdout


def test_binarize(run_tool, demo_root, tmp_path):
    root, out = tmp_path / "saliency", tmp_path / "bw"
    shutil.copytree(demo_root / "saliency", root)
    mask = next((root / SALIENCY_LAYOUTS["PASCAL-S"].masks).iterdir())
    truth = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(mask), np.where(truth, 200, 60).astype(np.uint8))
    done = run_tool(TOOL, root, "--any-count", "--binarize", out)
    assert done.returncode == 0, done.stdout
    assert np.array_equal(cv2.imread(str(out / mask.relative_to(root)), cv2.IMREAD_UNCHANGED), truth)
    files = sorted(p.relative_to(root) for p in root.rglob("*.*g"))
    assert sorted(p.relative_to(out) for p in out.rglob("*.*g")) == files
    refused(run_tool(TOOL, root, "--binarize", out), "exists")
    refused(run_tool(TOOL, tmp_path), "DUT-OMRON/pixelwiseGT-new-PNG   (missing)")
    refused(run_tool(TOOL, root, "--subset", "SOD"), "unknown subset ['SOD']", "PASCAL-S")
