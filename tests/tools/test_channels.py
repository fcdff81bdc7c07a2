"""Tools work on models of 1 and 4 input channels, and binary segmentation gives labels and not saliency."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from tests.tools.test_train_test import refused
from van_mm import get_config
from van_mm.apis.build import build_random_model
from van_mm.demo.demo_config import apply_demo

LOADERS = {1: dict(color_type="grayscale"), 3: {}, 4: dict(color_type="unchanged")}


@pytest.fixture
def model(tmp_path):
    """Write the config of a small model of a task and its random checkpoint, and return both."""

    def make(task: str, channels: int = 3, names=None, **head) -> tuple:
        cfg = get_config({"cls": "cls/van_b0_in1k", "seg": "seg/semantic_fpn_van_b0"}[task])
        apply_demo(cfg, str(tmp_path / "data"))
        cfg.model.backbone.in_channels = channels
        cfg.model.backbone.init_cfg = None
        for preprocessor in (cfg.get("data_preprocessor"), cfg.model.get("data_preprocessor")):
            if preprocessor:
                preprocessor.update(mean=[127.5] * channels, std=[127.5] * channels)
        cfg.test_dataloader.dataset.pipeline[0].update(LOADERS[channels])
        if head:
            cfg.model.decode_head.update(head)
        if names:
            cfg.test_dataloader.dataset.metainfo = dict(classes=names)
            if task == "seg":
                cfg.test_dataloader.dataset.update(type="BaseSegDataset", reduce_zero_label=False)
        file = tmp_path / f"{task}_{channels}.py"
        Config(cfg._cfg_dict.to_dict()).dump(file)
        torch.manual_seed(0)
        checkpoint = tmp_path / f"{task}_{channels}.pth"
        torch.save(dict(state_dict=build_random_model(cfg).state_dict()), checkpoint)
        return file, checkpoint

    return make


@pytest.fixture
def pictures(tmp_path) -> dict:
    """Write an image of each number of channels."""
    values = np.random.default_rng(0).integers(0, 255, (70, 90, 4), dtype=np.uint8)
    files = {channels: tmp_path / f"picture_{channels}.png" for channels in (1, 3, 4)}
    for channels, file in files.items():
        Image.fromarray(values[..., 0] if channels == 1 else values[..., :channels]).save(file)
    return files


@pytest.mark.parametrize("task", ["cls", "seg"])
@pytest.mark.parametrize("channels", [1, 4])
def test_infer(task, channels, model, pictures, run_tool, tmp_path):
    config, checkpoint = model(task, channels)
    inputs = list(pictures.values()) if channels == 1 else [pictures[4]]
    done = run_tool("infer", config, checkpoint, *inputs, "--out-dir", tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "out").glob("*.json"))) == len(inputs)
    if channels == 4:
        done = run_tool("infer", config, checkpoint, pictures[3], "--out-dir", tmp_path / "out")
        assert done.returncode == 1
        assert "picture_3.png has 3 channels, but the model reads 4. Give images with 4 channels" in done.stdout


@pytest.mark.parametrize("channels", [1, 4])
def test_export_onnx(channels, model, run_tool, tmp_path):
    pytest.importorskip("onnxruntime")
    config, checkpoint = model("cls", channels)
    done = run_tool("deploy/export_onnx", config, checkpoint, "--size", 64, 64, "--out", tmp_path / "m.onnx")
    assert done.returncode == 0, done.stdout
    assert f"1 x {channels} x 64 x 64: onnxruntime differs" in done.stdout


@pytest.mark.parametrize("channels", [1, 4])
def test_vis_cam(channels, model, pictures, run_tool, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    config, checkpoint = model("cls", channels)
    for size in ([], ["--size", 64]):
        arguments = ("--model", config, checkpoint, "--out", tmp_path / "cam.png", *size)
        done = run_tool("visualization/vis_cam", pictures[4], *arguments)
        assert done.returncode == 0, done.stdout
    if channels == 4:
        refused(run_tool("visualization/vis_cam", pictures[1], *arguments), "has 1 channels, but the model reads 4")


def test_binary_segmentation(model, pictures, run_tool, tmp_path):
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    config, checkpoint = model(
        "seg", names=("background", "road"), num_classes=2, out_channels=1, threshold=0.5, loss_decode=loss
    )
    done = run_tool("infer", config, checkpoint, pictures[3], "--out-dir", tmp_path / "out")
    assert done.returncode == 0, done.stdout
    labels = cv2.imread(str(tmp_path / "out/picture_3_labels.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(labels)) <= {0, 1}
    record = json.loads((tmp_path / "out/picture_3.json").read_text())
    assert {area["class"] for area in record["areas"]} <= {"background", "road"}
    assert sum(area["share"] for area in record["areas"]) == pytest.approx(1)


def test_classes_without_a_name(model, pictures, run_tool, tmp_path):
    for task, key in (("cls", "top"), ("seg", "areas")):
        config, checkpoint = model(task, names=("a", "b"))
        done = run_tool("infer", config, checkpoint, pictures[3], "--out-dir", tmp_path / "out")
        assert done.returncode == 0, done.stdout
        record = json.loads((tmp_path / "out/picture_3.json").read_text())
        unnamed = [entry for entry in record[key] if entry["index"] > 1]
        assert unnamed and all(entry["class"] == f"class {entry['index']}" for entry in unnamed)


def test_show_dir_of_images_in_memory(tmp_path, monkeypatch, run_tool):
    """The images of CIFAR-10 have no files: ``--show-dir`` draws them as the model receives them."""
    from mmpretrain.datasets import CIFAR10

    folder = tmp_path / "data" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        entry = dict(data=np.full((2, 3072), 200, np.uint8), labels=[0, 9])
        (folder / name).write_bytes(pickle.dumps(entry))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    cfg = get_config("cls/van_b0_in1k")
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 10
    dataset = dict(type="CIFAR10", data_root=str(tmp_path / "data"), pipeline=[dict(type="PackInputs")])
    cfg.train_dataloader.dataset = dict(dataset, split="train")
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.val_dataloader.dataset = cfg.test_dataloader.dataset = dict(dataset, split="test", test_mode=True)
    cfg.model.backbone.init_cfg = None
    Config(cfg._cfg_dict.to_dict()).dump(tmp_path / "cifar.py")
    torch.save(dict(state_dict=build_random_model(cfg).state_dict()), tmp_path / "cifar.pth")
    done = run_tool(
        "test", tmp_path / "cifar.py", tmp_path / "cifar.pth", "--show-dir", tmp_path / "show", "--work-dir", tmp_path
    )
    assert done.returncode == 0, done.stdout
    panels = [cv2.imread(str(file)) for file in (tmp_path / "show").glob("*.png")]
    assert len(panels) == 2 and all((panel[:, :32] == 200).all() for panel in panels)
    done = run_tool("misc/check_dataset", tmp_path / "cifar.py", "--workers", 0)
    assert done.returncode == 0 and "0 errors" in done.stdout, done.stdout
