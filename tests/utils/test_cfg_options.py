"""--cfg-options accepts every valid key and rejects misspelled keys."""

from importlib import import_module

import pytest
from mmengine.registry import init_default_scope

from tests.tools.test_train_test import refused
from van_mm import get_config
from van_mm.utils.cfg_options import check_cfg_options
from van_mm.utils.errors import UserError

GOOD = {
    "seg/upernet_van_b2": """model.backbone.drop_path_rate model.backbone.with_cp model.backbone.arch.embed_dims
        model.backbone.init_cfg.checkpoint model.decode_head.loss_decode.loss_weight model.decode_head.dropout_ratio
        model.test_cfg.mode optim_wrapper.optimizer.lr optim_wrapper.accumulative_counts
        optim_wrapper.clip_grad.max_norm train_dataloader.batch_size train_dataloader.prefetch_factor
        train_dataloader.dataset.pipeline.3.crop_size train_dataloader.dataset.indices default_hooks.early.type
        default_hooks.checkpoint.max_keep_ckpts randomness.seed randomness.deterministic load_from train_cfg.max_iters
        env_cfg.cudnn_benchmark visualizer.alpha param_scheduler.0.end auto_scale_lr.enable find_unused_parameters""",
    "det/mask_rcnn_van_b2_1x_coco": """model.roi_head.bbox_head.num_classes model.test_cfg.rcnn.score_thr
        train_dataloader.dataset.metainfo.classes model.rpn_head.anchor_generator.scales""",
    "pose/simplebaseline_van_b2_coco_256x192": "model.head.out_channels model.test_cfg.flip_test",
    "cls/van_b2_in1k": "model.head.num_classes model.head.topk model.train_cfg.augments custom_hooks.0.momentum",
}
BAD = [
    ("seg/upernet_van_b2", "model.backbone.withcp", "model.backbone has no 'withcp'; did you mean with_cp"),
    ("seg/upernet_van_b2", "model.decode_head.num_clases", "num_classes"),
    ("seg/upernet_van_b2", "optim_wrapper.optimiser.lr", "optim_wrapper has no 'optimiser'; did you mean optimizer"),
    ("seg/upernet_van_b2", "optim_wrapper.optimizer.learning_rate", "optimizer has no 'learning_rate'"),
    ("seg/upernet_van_b2", "train_dataloader.batchsize", "batch_size"),
    ("seg/upernet_van_b2", "train_dataloader.dataset.pipeline.30.scale", r"a list of 7; give 0 to 6"),
    ("seg/upernet_van_b2", "train_dataloader.dataset.pipeline.last.scale", "a list of 7"),
    ("seg/upernet_van_b2", "train_cfg.max_iter", "max_iters"),
    ("seg/upernet_van_b2", "lod_from", "load_from"),
    ("seg/upernet_van_b2", "modle.backbone.arch", "a config has no 'modle'; did you mean model"),
    ("det/mask_rcnn_van_b2_1x_coco", "model.roi_head.bbox_head.num_class", "num_classes"),
    ("det/mask_rcnn_van_b2_1x_coco", "model.bbox_head.num_classes", "model has no 'bbox_head'"),
    ("pose/simplebaseline_van_b2_coco_256x192", "model.head.outchannels", "out_channels"),
    ("cls/van_b2_in1k", "model.head.num_class", "num_classes"),
    # Variables of the config file, whose values have been copied.
    (
        "seg/upernet_van_b2",
        "train_pipeline.2.scale",
        "train_pipeline is a variable .* Change train_dataloader.dataset.pipeline.2.scale instead",
    ),
    ("seg/upernet_van_b2", "test_pipeline", "Change val_dataloader.dataset.pipeline, test_dataloader.dataset.pipeline"),
    ("seg/upernet_van_b2", "crop_size", "Change model.data_preprocessor.size|Change train_dataloader.*crop_size"),
    ("seg/upernet_van_b2", "data_root", "Change train_dataloader.dataset.data_root, val_dataloader.dataset.data_root"),
    ("det/mask_rcnn_van_b2_1x_coco", "backend_args", "Change train_dataloader.dataset.backend_args"),
    ("pose/simplebaseline_van_b2_coco_256x192", "codec.sigma", "train_dataloader.dataset.pipeline.*encoder.sigma"),
]


@pytest.mark.parametrize("config", GOOD)
def test_valid_keys_pass(config):
    cfg = get_config(config)
    init_default_scope(cfg.default_scope)
    check_cfg_options(cfg, dict.fromkeys(GOOD[config].split()))


@pytest.mark.parametrize(("config", "key", "words"), BAD, ids=[key for _, key, _ in BAD])
def test_misspelled_keys_raise(config, key, words):
    cfg = get_config(config)
    init_default_scope(cfg.default_scope)
    with pytest.raises(UserError, match=words):
        check_cfg_options(cfg, {key: 1})


def test_tool(run_tool, tmp_path):
    done = run_tool("train", "seg/upernet_van_b2", "--demo", "--cfg-options", "model.backbone.drop_path=0.3")
    refused(done, "model.backbone has no 'drop_path'", "drop_path_rate")
    assert not (tmp_path / "data").exists() and not (tmp_path / "work_dirs").exists()


def test_variables_that_custom_modules_read(tmp_path, monkeypatch):
    """A variable has an effect if a module of ``custom_imports`` names it."""
    cfg = get_config("cls/van_b2_in1k")
    cfg.warm_color, cfg.cold_color = 1, 2
    (tmp_path / "my_reading_hook.py").write_text("def get_color(runner):\n    return runner.cfg.warm_color\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("my_reading_hook")
    cfg.custom_imports = dict(imports=["my_reading_hook"])
    init_default_scope("mmpretrain")
    check_cfg_options(cfg, {"warm_color": 3})
    with pytest.raises(UserError, match="cold_color is a variable of the config file.* Change it in the config file"):
        check_cfg_options(cfg, {"cold_color": 3})


@pytest.mark.parametrize(
    "value", ["a=[1,2", "a=[1", "a=(1,2", "a=[1,2)", "a=[(1,2],3)", "a=1,[2", "a=[[1,2],3", "a=[1,2]]", "no_value"]
)
def test_settings_that_do_not_parse(value, run_tool):
    done = run_tool("train", "cls/van_b0_in1k", "--cfg-options", "train_cfg.max_epochs=1", value)
    refused(done, f"--cfg-options {value} ", "Write lists as KEY=[a,b]")
    assert done.returncode == 2 and done.stdout.count("\n") == 1
