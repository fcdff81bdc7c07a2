"""What tools/test.py writes: predictions, figures, and metrics that are lists."""

import json
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from tests.conftest import forget
from tests.tools.test_train_test import refused
from van_mm.apis.build import build_random_model
from van_mm.apis.configs import CONFIG_DIR
from van_mm.apis.run_config import get_run_config


@pytest.fixture
def test(run_tool, demo_root, tmp_path):
    """Return a function that tests a config's demo with random weights."""

    def run(config, *flags):
        forget(MMLogger)  # its handlers write to the output stream of an earlier test
        cfg = get_run_config(config, demo=True, demo_root=str(demo_root))
        torch.save(dict(state_dict=build_random_model(cfg).state_dict()), tmp_path / "random.pth")
        demo = ("--demo", "--demo-root", demo_root, "--work-dir", tmp_path / "run")
        return run_tool("test", config, tmp_path / "random.pth", *demo, *flags)

    return run


def test_predictions_of_a_segmentor(test, tmp_path):
    figures = ("--show-dir", tmp_path / "figures", "--show-num", 2)
    done = test("seg/semantic_fpn_van_b0", "--out", tmp_path / "out.pkl", *figures)
    assert done.returncode == 0 and "mIoU" in done.stdout, done.stdout
    samples = pickle.loads((tmp_path / "out.pkl").read_bytes())
    assert len(samples) == 3 and not any({"seg_logits", "gt_sem_seg"} & sample.keys() for sample in samples)
    for sample in samples:
        assert sample["pred_sem_seg"]["data"].dtype == np.uint8
        assert sample["pred_sem_seg"]["data"].shape == (1, *sample["ori_shape"]) and sample["img_path"]
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_metrics_that_are_lists(test, tmp_path):
    (tmp_path / "lists.py").write_text(
        f"_base_ = {str(CONFIG_DIR / 'cls/van_b0_in1k.py')!r}\n"
        "test_evaluator = dict(_delete_=True, type='SingleLabelMetric', average=None)\n"
    )
    done = test(str(tmp_path / "lists.py"), "--out", tmp_path / "metrics.json")
    assert done.returncode == 0, done.stdout
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    (precision,) = [value for key, value in metrics.items() if "precision" in key]
    assert len(precision) > 1 and all(isinstance(value, float) for value in precision)


def test_number_of_figures(run_tool):
    for flags in (("--show-num", 0, "--show-dir", "x"), ("--show-num", 3)):
        refused(run_tool("test", "cls/van_b0_in1k", "nowhere.pth", *flags), "--show-num", "at least 1")
