"""The flags of a training become settings of mmengine, which --dump shows."""

import pytest
from mmengine.config import Config

from tests.datasets.folders.data_folders import write_class_folders, write_voc
from van_mm import get_config
from van_mm.apis import run_options
from van_mm.apis.batch_size import find_batch_size
from van_mm.apis.own_data import use_data
from van_mm.apis.run_config import load_experiment
from van_mm.apis.run_options import RunOptions
from van_mm.utils.errors import UserError


def apply(config: str, **options) -> tuple[Config, str]:
    cfg = get_config(config)
    return cfg, "\n".join(RunOptions(**options).apply(cfg))


def test_numbers():
    cfg, changes = apply("det/retinanet_van_b0_1x_coco", batch="8", lr="2e-4", seed=3, epochs=6)
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.optimizer.lr, cfg.randomness.seed) == (8, 2e-4, 3)
    assert cfg.train_cfg.max_epochs == 6 and "batch size: 8" in changes and "seed: 3" in changes


def test_lr_auto_is_auto_scale_lr():
    cfg, changes = apply("det/retinanet_van_b0_1x_coco", batch="4", lr="auto")
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)
    assert "learning rate: 0.0001 at batch size 16 -> 2.5e-05 at 4" in changes


@pytest.mark.parametrize(
    ("config", "metric"),
    [
        ("cls/van_b0_in1k", "accuracy/top1"),
        ("det/retinanet_van_b0_1x_coco", "coco/bbox_mAP"),
        ("det/mask_rcnn_van_b0_1x_coco", "coco/segm_mAP"),
        ("det/mask2former_van_b2_50e_coco_panoptic", "coco_panoptic/PQ"),
        ("seg/upernet_van_b0", "mIoU"),  # mmengine's 'auto' would be the pixel accuracy
        ("seg/edn_van_b1_duts", "DUTS-TE/F_max"),
        ("pose/simplebaseline_van_b2_coco_256x192", "coco/AP"),
    ],
)
def test_best_checkpoint_and_early_stopping(config, metric):
    cfg, _ = apply(config, save_best=True, early_stop=3)
    assert cfg.default_hooks.checkpoint.save_best == metric and cfg.default_hooks.checkpoint.rule == "greater"
    stop = cfg.custom_hooks[-1]
    assert (stop.type, stop.monitor, stop.rule, stop.patience) == ("EarlyStoppingHook", metric, "greater", 3)


def test_trackers(monkeypatch):
    monkeypatch.setattr(run_options, "find_spec", lambda name: name)
    for name, (_, backend) in run_options.TRACKERS.items():
        cfg, _ = apply("seg/upernet_van_b0", track=name)
        kinds = [one["type"] for one in cfg.visualizer.vis_backends]
        assert kinds == ["LocalVisBackend", backend["type"]]
    assert cfg.visualizer.type == "SegLocalVisualizer"
    monkeypatch.setattr(run_options, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package mlflow. Install it: pip install mlflow"):
        apply("seg/upernet_van_b0", track="mlflow")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(epochs=3, iters=3), "both set the length"),
        (dict(epochs=0), "at least 1"),
        (dict(batch="many"), "--batch many"),
        (dict(lr="-1"), "--lr -1"),
        (dict(ignore_index=3), "goes with --data"),
        (dict(image_size=3), "goes with --data"),
        (dict(early_stop=0), "at least 1 validation"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=words):
        apply("cls/van_b0_in1k", **options)


@pytest.mark.parametrize(
    ("config", "write"), [("cls/van_b0_in1k", write_class_folders), ("det/retinanet_van_b0_1x_coco", write_voc)]
)
def test_batch_auto_counts_the_memory_of_an_image(config, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_experiment(config)
    use_data(cfg, write(tmp_path / "data", number=30), image_size=64, pretrained=False)
    cfg.auto_scale_lr.base_batch_size = 1024
    images = 24 if "det" in config else 48
    monkeypatch.setattr("van_mm.apis.batch_size.os.sysconf", lambda name: 10**3)
    size, reason = find_batch_size(cfg)
    assert size == 2 and "MB for each image" in reason
    if "det" in config:
        megabytes = float(reason.split(" MB")[0])
        assert 1 < megabytes < 200
    monkeypatch.setattr("van_mm.apis.batch_size.MEMORY_SHARE", 1e9)
    assert find_batch_size(cfg)[0] == 1 << max(2, images // 10).bit_length() - 1  # a tenth of the data
