"""The experiments' configs build the paper's models and recipes."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from van_mm.launch import find_config

# Config -> parameters in millions as the paper prints them, and digits. Mask2Former has none printed.
PARAMS = {
    "cls/van_b2_in1k": (26.6, 1),  # table 7
    "det/retinanet_van_b0_1x_coco": (13.4, 1),  # table 9
    "det/mask_rcnn_van_b2_1x_coco": (46.2, 1),  # table 10
    "seg/upernet_van_b2": (57, 0),  # table 12
    "pose/simplebaseline_van_b2_coco_256x192": (30.3, 1),  # table 15
}


@pytest.mark.parametrize("config", PARAMS)
def test_parameters(config):
    cfg = Config.fromfile(find_config(config))
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    params, digits = PARAMS[config]
    total = sum(p.numel() for p in model.parameters())
    assert round(total / 1e6, digits) == params


# Section 4 and the official files: optimiser, learning rate, weight decay, images a batch, length, drop path.
RECIPES = {
    "cls/van_b2_in1k": ("AdamW", 1e-3, 0.05, 1024, 300, 0.1),
    "det/retinanet_van_b0_1x_coco": ("AdamW", 1e-4, 0.05, 16, 12, 0.1),
    "det/mask_rcnn_van_b2_1x_coco": ("AdamW", 1e-4, 0.05, 16, 12, 0.1),
    "det/mask2former_van_b2_50e_coco_panoptic": ("AdamW", 1e-4, 0.05, 16, 368750, 0.1),
    "seg/upernet_van_b2": ("AdamW", 6e-5, 0.01, 16, 160000, 0.1),
    "pose/simplebaseline_van_b2_coco_256x192": ("Adam", 5e-4, 0, 512, 210, 0.1),
}


@pytest.mark.parametrize("config", RECIPES)
def test_recipe(config):
    cfg = Config.fromfile(find_config(config))
    optimizer = cfg.optim_wrapper.optimizer
    batch = 8 * cfg.train_dataloader.batch_size
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    assert RECIPES[config] == (
        optimizer.type,
        optimizer.lr,
        optimizer.get("weight_decay", 0),
        batch,
        length,
        cfg.model.backbone.drop_path_rate,
    )
    assert cfg.auto_scale_lr.base_batch_size == batch
    pretrained = cfg.model.backbone.get("init_cfg")
    assert config.startswith("cls") or pretrained.checkpoint == f"van_mm://{cfg.model.backbone.arch}_in1k"


def test_upernet_takes_no_decay_on_norms():
    from mmengine.optim import build_optim_wrapper

    cfg = Config.fromfile(find_config("seg/upernet_van_b2"))
    init_default_scope("mmseg")
    cfg.model.backbone.arch = dict(embed_dims=[64, 128, 320, 512], depths=[1] * 4, mlp_ratios=[1] * 4)
    model = MODELS.build(cfg.model)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay["backbone.block1.0.norm1.weight"] == decay["backbone.patch_embed1.norm.bias"] == 0
    assert decay["backbone.block1.0.attn.proj_1.weight"] == 0.01
