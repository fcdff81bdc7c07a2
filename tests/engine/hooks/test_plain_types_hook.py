"""Checkpoints load in processes that have not imported van_mm, and resume as before."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from tests.checkpoints.test_loading import SMALL
from tests.conftest import ROOT
from tests.engine.runs import batches, runner
from van_mm import get_config
from van_mm.apis.build import build_random_model
from van_mm.apis.inferencer import get_dataset_meta
from van_mm.checkpoints.plain_types import restore_history_buffers, to_plain_types

CONFIGS = {
    "mmpretrain": "cls/van_b0_in1k",
    "mmdet": "det/retinanet_van_b0_1x_coco",
    "mmseg": "seg/upernet_van_b0",
    "mmpose": "pose/simplebaseline_van_b2_coco_256x192",
}
# A process that has imported the four inferencers, and not van_mm, is forked for each of them.
PREDICT = """
import os, sys, traceback
from mmpretrain.apis import ImageClassificationInferencer
from mmdet.apis import DetInferencer
from mmpose.apis import MMPoseInferencer
from mmseg.apis import MMSegInferencer
assert "van_mm" not in sys.modules

def classify(config, weights, image):
    return ImageClassificationInferencer(config, pretrained=weights, device="cpu")(image)[0]["pred_class"] == "thing 0"

def detect(config, weights, image):
    return DetInferencer(config, weights, device="cpu")(image, return_vis=False)["predictions"] is not None

def segment(config, weights, image):
    return MMSegInferencer(config, weights, device="cpu")(image, return_vis=False)["predictions"] is not None

def find_keypoints(config, weights, image):
    model = MMPoseInferencer(config, weights, device="cpu", det_model="whole_image")
    return next(model(image, return_vis=False))["predictions"] is not None

calls = dict(mmpretrain=classify, mmdet=detect, mmseg=segment, mmpose=find_keypoints)
for codebase, call in calls.items():
    if os.fork() == 0:
        try:
            assert call(*(f"{sys.argv[1]}/{codebase}{suffix}" for suffix in (".py", ".pth", ".jpg")))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.wait()[1] == 0, codebase
"""


def trained_checkpoint(tmp_path, steps=4):
    made = runner(batches(number=steps), tmp_path)
    made.register_hook(dict(type="van_mm.PlainTypesHook"), priority="LOWEST")
    made.message_hub.update_info("best_score", np.float64(0.5))
    made.train()
    return made, tmp_path / f"iter_{steps}.pth"


def test_checkpoint_of_a_run_loads_without_van_mm(tmp_path):
    _, file = trained_checkpoint(tmp_path)
    code = f"import sys, torch; torch.load({str(file)!r}, weights_only=True); assert 'van_mm' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_resume_restores_the_message_hub(tmp_path):
    made, file = trained_checkpoint(tmp_path)
    before = made.message_hub.log_scalars["train/loss"]
    resumed = runner(batches(number=6), tmp_path / "resumed")
    resumed.register_hook(dict(type="van_mm.PlainTypesHook"), priority="LOWEST")
    resumed._resume = True
    resumed.resume(str(file))
    after = resumed.message_hub.log_scalars["train/loss"]
    assert isinstance(after, HistoryBuffer) and after.max_length == before.max_length
    assert all(np.array_equal(a, b) for a, b in zip(after.data, before.data, strict=True))
    after.update(1.0)
    assert after.current() == 1.0 and after.mean(2) == pytest.approx((before.current() + 1) / 2)


def test_types():
    colors = [np.array([1, 2], np.uint8)]
    meta = dict(sigmas=np.array([0.5, 1]), colors=colors, pair=(np.int64(1), "a"), name=np.str_("x"))
    assert to_plain_types(meta) == dict(sigmas=[0.5, 1.0], colors=[[1, 2]], pair=(1, "a"), name="x")
    hub = dict(log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])), runtime_info={}, resumed_keys={})
    restored = restore_history_buffers(to_plain_types(hub))
    assert restored["log_scalars"]["loss"].mean() == 1.5


def test_inferencers_of_upstream(tmp_path):
    """Upstream's four inferencers read the checkpoint before they build the model, which imports van_mm."""
    for codebase, name in CONFIGS.items():
        cfg = get_config(name)
        cfg.model.backbone.update(arch=SMALL)
        parts = dict(neck=[8, 16, 24, 32], decode_head=[8, 16, 24, 32], auxiliary_head=24, head=32)
        for part, channels in parts.items():
            if "in_channels" in cfg.model.get(part, {}):
                cfg.model[part].in_channels = channels
        meta = dict(cfg=cfg.pretty_text, dataset_meta=get_dataset_meta(cfg), epoch=1, best=np.float64(1))
        state = build_random_model(cfg).state_dict()
        if codebase == "mmpretrain":
            meta["dataset_meta"] = dict(classes=[f"thing {label}" for label in range(1000)])
            state["head.fc.bias"][0] = 99.0
        hub = dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1])))
        checkpoint = dict(meta=meta, state_dict=state, message_hub=hub)
        cfg.dump(tmp_path / f"{codebase}.py")
        torch.save({key: to_plain_types(value) for key, value in checkpoint.items()}, tmp_path / f"{codebase}.pth")
        cv2.imwrite(str(tmp_path / f"{codebase}.jpg"), np.full((64, 64, 3), 99, np.uint8))
    done = subprocess.run([sys.executable, "-c", PREDICT, str(tmp_path)], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
