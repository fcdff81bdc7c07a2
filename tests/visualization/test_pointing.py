"""Models trained on the demo data attend to the objects (figures 6 and 9)."""

import cv2
import numpy as np
import pytest
import torch

from van_mm import get_config
from van_mm.apis.build import build_model
from van_mm.apis.configs import CONFIG_DIR
from van_mm.apis.inferencer import preprocess_images
from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS
from van_mm.demo.classification import IMAGENET
from van_mm.demo.drawing import draw_backdrop, draw_shape, to_uint8
from van_mm.visualization.attention import compute_attention_maps
from van_mm.visualization.cam import ClassifierLogits, compute_cam


def draw_images(size, number=24):
    """Draw demo images of one object each: images (N, 3, H, W, RGB, 0 to 255), masks (N, H, W) and class indices."""
    images, masks, labels = [], [], []
    for i in range(number):
        rng = np.random.default_rng(100 + i)
        label, shape, hue = list(IMAGENET.values())[i % len(IMAGENET)]
        image, _ = draw_backdrop(rng, size, size)
        center = size / 2 + rng.uniform(-0.1, 0.1, 2) * size
        masks.append(draw_shape(rng, image, shape, hue, center, size * rng.uniform(0.26, 0.4)))
        images.append(to_uint8(image)[..., ::-1])
        labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float(), np.stack(masks), labels


def load_test_set(root, number=40):
    """Return the image files of the demo DUTS-TE and their masks (N, 384, 384)."""
    layout = SALIENCY_LAYOUTS["DUTS-TE"]
    images = sorted((root / layout.images).iterdir())[:number]
    masks = [cv2.imread(str(root / layout.masks / f"{file.stem}.png"), cv2.IMREAD_GRAYSCALE) for file in images]
    return images, np.stack([cv2.resize(mask, (384, 384), interpolation=cv2.INTER_NEAREST) for mask in masks]) > 128


def compute_inside_outside_ratio(maps, masks):
    """Return the mean of the maps inside the masks divided by that outside. Each map is first scaled to 0 to 1."""
    maps = np.stack([cv2.resize(m, masks.shape[:0:-1]) for m in maps])
    low, high = (reduce(maps, (1, 2), keepdims=True) for reduce in (np.min, np.max))
    maps = (maps - low) / (high - low)
    return maps[masks].mean() / maps[~masks].mean()


def train(run_tool, tmp_path, base, changes):
    """Train a config on its demo data. Return the config and the path of the checkpoint."""
    (tmp_path / "b0.py").write_text(f"_base_ = {str(CONFIG_DIR / base)!r}\n{changes}\n")
    done = run_tool("train", tmp_path / "b0.py", "--demo", "--work-dir", tmp_path / "run", "--no-validate")
    assert done.returncode == 0, done.stdout
    return get_config(str(tmp_path / "b0.py")), (tmp_path / "run/last_checkpoint").read_text()


@pytest.mark.slow
def test_cam(run_tool, tmp_path):
    """Grad-CAM is at least twice as high on the objects, for VAN-B0 trained on demo ImageNet at 128 pixels."""
    changes = "demo = dict(scale=128 / 224, iters=240)"
    model = build_model(*train(run_tool, tmp_path, "cls/van_b0_in1k.py", changes))
    images, masks, labels = draw_images(128)
    maps, scores = compute_cam(ClassifierLogits(model), (images - 127.5) / 127.5, labels)
    assert (scores.argmax(1) == labels).mean() > 0.7
    assert compute_inside_outside_ratio(maps, masks) >= 2


@pytest.mark.slow
def test_attention(run_tool, tmp_path):
    """Attention is at least twice as high on the objects, for VAN-B0 trained on demo DUTS.

    Checks the last block of stage 1, because the attention of later stages is less local.
    """
    changes = 'model = dict(backbone=dict(arch="b0"), decode_head=dict(in_channels=[32, 64, 160, 256]))'
    cfg, checkpoint = train(run_tool, tmp_path, "seg/edn_van_b1_duts.py", changes)
    model = build_model(cfg, checkpoint)
    images, masks = load_test_set(tmp_path / "data/demo/saliency")
    maps = compute_attention_maps(model.backbone, preprocess_images(cfg, model, images, size=384)[1])
    assert compute_inside_outside_ratio(maps[1, 3], masks) >= 2
