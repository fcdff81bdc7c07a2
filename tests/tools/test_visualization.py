"""The visualization tools run on models with random weights."""

import json

import cv2
import numpy as np
import pytest
import torch

from tests.tools.test_train_test import refused
from van_mm import get_config
from van_mm.apis.build import build_random_model


@pytest.fixture(scope="module")
def van(tmp_path_factory):
    """Return a checkpoint of cls/van_b0_in1k with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("van") / "b0.pth"
    torch.save(dict(state_dict=build_random_model(get_config("cls/van_b0_in1k")).state_dict()), file)
    return file


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """Return the name of an upstream config and a checkpoint with random weights."""
    name = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
    file = tmp_path_factory.mktemp("resnet") / "r18.pth"
    torch.save(dict(state_dict=build_random_model(get_config(name)).state_dict()), file)
    return name, file


@pytest.fixture
def image_files(demo_root):
    return sorted(demo_root.glob("imagenet/val/*.JPEG"))[:2]


def test_cam(van, resnet, image_files, run_tool, tmp_path):
    cam = ("visualization/vis_cam", *image_files, "--model", "cls/van_b0_in1k", van)
    out = ("--out", tmp_path / "cam.png")
    done = run_tool(*cam, "--model", *resnet, *out, "--target", "goldfish")
    assert done.returncode == 0, done.stdout
    classes = json.loads((tmp_path / "cam.json").read_text())
    assert list(classes) == [str(file) for file in image_files]
    for rows in classes.values():
        assert [row["index"] for row in rows] == [1, 1] and {row["class"] for row in rows} == {"goldfish"}
    height, width = cv2.imread(str(tmp_path / "cam.png")).shape[:2]
    assert width > height  # two rows, three columns
    done = run_tool(*cam, *out, "--demo", "--size", 96, "--method", "layercam", "--target-layer", "backbone.block3.4")
    assert done.returncode == 0, done.stdout
    refused(run_tool(*cam, "--demo", "--target-layer", "backbone.blok3"), "no layer 'backbone.blok3'")
    refused(run_tool(*cam, "--demo", "--target", "golfish"), "no such class", "goldfish")
    refused(run_tool(*cam, "--demo", "--target", 1000), "classes are 0 to 999")
    refused(run_tool("visualization/vis_cam", "nowhere.png", "--model", "cls/van_b0_in1k", van), "nowhere.png")
    refused(run_tool("visualization/vis_cam", van, "--model", "cls/van_b0_in1k", van), "is not an image")
    refused(run_tool(*cam, "--model", "seg/semantic_fpn_van_b0", van), "not of this config's model")


def test_attention(van, resnet, image_files, run_tool, tmp_path):
    attention = (
        "visualization/vis_attention",
        "cls/van_b0_in1k",
        van,
        *image_files,
        "--demo",
        "--out",
        tmp_path / "a.png",
    )
    for options in ((), ("--blocks", "all"), ("--blocks", "3.1", "3.5", "--size", "128")):
        done = run_tool(*attention, *options)
        assert done.returncode == 0, done.stdout
        assert cv2.imread(str(tmp_path / "a.png")).std() > 0
    refused(run_tool(*attention, "--blocks", "3.6"), "no 3.6", "1.1 to 4.2", "3, 3, 5, 2 blocks")
    refused(run_tool("visualization/vis_attention", *resnet, *image_files), "no VAN")


def test_erf(van, image_files, run_tool, tmp_path):
    erf = ("visualization/vis_erf", "--size", 96, "--num", 2, "--out", tmp_path / "erf.png")
    options = ("--backbones", "b0", "resnet-50", "--model", "cls/van_b0_in1k", van, "--inputs", *image_files)
    done = run_tool(*erf, *options)
    assert done.returncode == 0, done.stdout
    result = json.loads((tmp_path / "erf.json").read_text())
    assert result["num"] == 2 and list(result["areas"]) == ["b0", "resnet-50", "van_b0_in1k"]
    for row in result["areas"].values():
        assert list(row) == ["20%", "30%", "50%", "99%"] and list(row.values()) == sorted(row.values())
    assert (tmp_path / "erf.png").exists() and "99%" in done.stdout
    refused(run_tool(*erf), "--backbones")
    refused(run_tool(*erf, "--backbones", "b7"), "no b7", "b6")
    refused(run_tool(*erf, "--backbones", "b0", "--num", 0), "at least 1")


@pytest.mark.parametrize(
    "config",
    [
        "cls/van_b2_in1k",
        "cls/van_b4_in22k_cub",
        "det/mask_rcnn_van_b2_ms_3x_coco",
        "det/mask2former_van_b2_50e_coco_panoptic",
        "seg/upernet_van_b2",
        "seg/edn_van_b1_duts",
        "pose/simplebaseline_van_b2_coco_256x192",
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_browse_dataset(config, split, demo_root, run_tool, tmp_path):
    browse = ("visualization/browse_dataset", config, "--demo", "--demo-root", demo_root, "--split", split)
    done = run_tool(*browse, "--num", 3, "--columns", 2, "--out", tmp_path / "data.png")
    assert done.returncode == 0, done.stdout
    assert "3 of" in done.stdout or "2 of 2" in done.stdout
    assert cv2.imread(str(tmp_path / "data.png")).std() > 10


def test_browse_dataset_shows_original_colors(demo_root, run_tool, tmp_path):
    """Images are shown without normalization and with the right channel order: the mean color at the center agrees."""
    options = ("--demo", "--demo-root", demo_root, "--split", "val", "--num", 1, "--out", tmp_path / "one.png")
    done = run_tool("visualization/browse_dataset", "cls/van_b2_in1k", *options)
    assert done.returncode == 0, done.stdout
    drawn = cv2.imread(str(tmp_path / "one.png")).astype(int)
    height, width = drawn.shape[:2]
    file = sorted(demo_root.glob("imagenet/val/*.JPEG"))[0]
    image = cv2.imread(str(file))
    center = drawn[height * 2 // 5 : height * 4 // 5, width * 2 // 5 : width * 3 // 5].mean((0, 1))
    assert np.abs(center - image[45:83, 45:83].mean((0, 1))).max() < 25


def test_browse_dataset_rejects(run_tool):
    refused(run_tool("visualization/browse_dataset", "seg/upernet_van_b2"), "(missing)", "--demo")
    refused(run_tool("visualization/browse_dataset", "seg/upernet_van_b2", "--num", 0), "at least 1")
    refused(run_tool("visualization/browse_dataset", "cls/van_b4_in22k", "--split", "val"), "no val_dataloader")


def test_scheduler(run_tool, tmp_path):
    names = ("seg/upernet_van_b2", "det/mask_rcnn_van_b2_1x_coco")
    done = run_tool("visualization/vis_scheduler", *names, "--out", tmp_path / "lr.png")
    assert done.returncode == 0, done.stdout
    runs = json.loads((tmp_path / "lr.json").read_text())
    seg, det = (runs[name] for name in names)
    lr = dict(zip(seg["step"], seg["lr"], strict=True))
    assert seg["step"][-1] == 159999 and max(lr.values()) == pytest.approx(6e-5, rel=2e-2)
    assert lr[0] < 1e-9 and lr[159999] < 1e-8
    assert lr[80000] == pytest.approx(6e-5 * (160000 - 80000) / 158500, rel=1e-3)  # poly, power 1, after the warm-up
    assert det["steps_per_epoch"] == 7330 and det["step"][-1] == 12 * 7330 - 1
    lr = dict(zip(det["step"], det["lr"], strict=True))
    assert [lr[7330 * epoch] for epoch in (1, 7, 8, 10, 11)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6])
    assert set(det["momentum"]) == {0.9}
    upstream = "mmseg::unet/unet-s5-d16_fcn_4xb4-40k_hrf-256x256.py"
    refused(run_tool("visualization/vis_scheduler", upstream), "is not known", "--samples")
