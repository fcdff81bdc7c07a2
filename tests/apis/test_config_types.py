"""Configs may hold classes instead of names, and import modules beside them."""

import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from van_mm import get_config
from van_mm.apis.backbone_swap import swap_backbone
from van_mm.apis.run_config import get_run_config
from van_mm.utils.config_walk import get_type_name, iter_dicts
from van_mm.utils.errors import UserError

UPSTREAM = Path(mmdet.__file__).parent / ".mim/configs"
NEW_STYLE_BASE = """
from mmdet.models import FPN, DetDataPreprocessor, ResNet, RetinaHead, RetinaNet
from mmdet.models.losses import FocalLoss, L1Loss
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor),
    backbone=dict(type=ResNet, depth=50, out_indices=(0, 1, 2, 3)),
    neck=dict(type=FPN, in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    bbox_head=dict(type=RetinaHead, num_classes=80, in_channels=256, loss_cls=dict(type=FocalLoss, use_sigmoid=True)),
)
"""
NEW_STYLE = """
from mmengine.config import read_base
with read_base():
    from .new_style_base import *
from mmengine.hooks import EMAHook
model.update(test_cfg=dict(nms_pre=100))
custom_hooks = [dict(type=EMAHook)]
"""
CLASSES = """
_base_ = {base!r}
from mmdet.models import RetinaNet, SingleStageDetector
from mmdet.datasets import CocoDataset
from mmengine.hooks import EMAHook
from torch.optim import SGD
model = dict(type=RetinaNet)
train_dataloader = dict(dataset=dict(type=CocoDataset))
custom_hooks = [dict(type=EMAHook, momentum=0.1)]
optim_wrapper = dict(optimizer=dict(type=SGD))
"""


def get_types(cfg) -> list:
    return [node["type"] for node in iter_dicts(cfg._cfg_dict) if node.get("type") is not None]


def test_new_style_config(tmp_path):
    (tmp_path / "new_style_base.py").write_text(NEW_STYLE_BASE)
    (tmp_path / "new_style.py").write_text(NEW_STYLE)
    cfg = get_config(str(tmp_path / "new_style.py"))
    assert cfg.default_scope == "mmdet" and cfg.model.type == "RetinaNet" and cfg.custom_hooks[0].type == "EMAHook"
    assert all(isinstance(kind, str) for kind in get_types(cfg))
    swap_backbone(cfg, "b0")
    assert get_type_name(cfg.model.backbone) == "VAN"
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").model.type == "RetinaNet"
    with DefaultScope.overwrite_default_scope("mmdet"):
        assert type(MODELS.build(cfg.model)).__name__ == "RetinaNet"


@pytest.mark.parametrize("scope", ["", "default_scope = None\n"])
def test_classes_without_scope(scope, tmp_path):
    base = str(UPSTREAM / "retinanet/retinanet_r50_fpn_1x_coco.py")
    (tmp_path / "mine.py").write_text(CLASSES.format(base=base) + scope)
    cfg = get_config(str(tmp_path / "mine.py"))
    assert cfg.default_scope == "mmdet" and cfg.model.type == "RetinaNet"
    assert cfg.custom_hooks[0].type == "EMAHook" and cfg.optim_wrapper.optimizer.type == "SGD"
    assert cfg.train_dataloader.dataset.type == "CocoDataset" and cfg.pretty_text


def test_unregistered_class_and_other_scope(tmp_path):
    (tmp_path / "my_module_of_types.py").write_text("class Mine:\n    pass\n")
    (tmp_path / "mine.py").write_text(
        "from my_module_of_types import Mine\nfrom mmseg.models import EncoderDecoder\n"
        "default_scope = 'mmdet'\nmodel = dict(type=EncoderDecoder, head=dict(type=Mine))"
    )
    cfg = get_config(str(tmp_path / "mine.py"))
    assert mmseg and cfg.model.type == "mmseg.EncoderDecoder" and cfg.model.head.type == "my_module_of_types.Mine"


def test_get_type_name():
    assert get_type_name(dict(type="mmdet.CocoDataset")) == get_type_name(dict(type="CocoDataset")) == "CocoDataset"
    assert get_type_name(dict(type=Path)) == "Path" and get_type_name({}) == ""


@pytest.mark.parametrize("place", ["beside", "working folder"])
def test_custom_imports(place, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    (tmp_path / "configs").mkdir(), (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    module = f"my_hooks_{place.replace(' ', '_')}"
    folder = tmp_path / ("configs" if place == "beside" else "work")
    (folder / f"{module}.py").write_text("loaded = True\n")
    config = tmp_path / "configs/mine.py"
    config.write_text(f"custom_imports = dict(imports=['{module}'])\n")
    get_config(str(config))
    assert sys.modules[module].loaded
    (folder / f"{module}_bad.py").write_text("import torch\nfrom torch import no_such_thing\n")
    config.write_text(f"custom_imports = dict(imports=['{module}_bad'])\n")
    with pytest.raises(UserError, match=f"does not load.*no_such_thing.*{module}_bad.py, line 2"):
        get_config(str(config))
    (folder / f"{module}_bug.py").write_text("x = 1 / 0\n")
    config.write_text(f"custom_imports = dict(imports=['{module}_bug'])\n")
    with pytest.raises(UserError, match="does not load: ZeroDivisionError"):
        get_config(str(config))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("mmpretrain::_base_/models/resnet50", r"Did you mean mmpretrain::_base_/models/resnet50\.py"),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco", r"Did you mean mmdet::retinanet/retinanet_r50_fpn_1x_coco\.py"),
        ("mmpretrain::x", "no config 'mmpretrain::x'"),
    ],
)
def test_upstream_base_without_suffix(base, message, tmp_path):
    (tmp_path / "mine.py").write_text(f"_base_ = {base!r}\n")
    with pytest.raises(UserError, match=message):
        get_config(str(tmp_path / "mine.py"))


def test_bases_are_found_without_the_model_index(monkeypatch):
    """The metafiles of a codebase are not parsed for a base that is given by its path."""
    search = Config._get_cfg_path
    monkeypatch.setattr("mmengine.config.utils.load", None)
    assert get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco").model.type == "RetinaNet"
    assert get_config("seg/upernet_van_b0").model.type == "EncoderDecoder"
    assert Config._get_cfg_path is search


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cls/van_b0_in1k", {}, True),
        ("cls/van_b0_in1k", {"num_workers": 0}, False),
        ("cls/van_b0_in1k", {"persistent_workers": False}, False),
        ("seg/semantic_fpn_van_b0", {}, True),
        ("seg/semantic_fpn_van_b0", {"num_workers": 0}, False),
    ],
)
def test_workers_are_kept_if_there_are_any(name, options, expected, tmp_path):
    """mmpretrain's own tools keep workers from epoch to epoch. PyTorch refuses to keep workers that are not there."""
    options = {f"{split}_dataloader.{key}": value for key, value in options.items() for split in ("train", "val")}
    cfg = get_run_config(name, cfg_options=options, work_dir=str(tmp_path))
    assert cfg.train_dataloader.persistent_workers is cfg.val_dataloader.persistent_workers is expected
