"""Learning rates that decay by layer, in models of all four codebases."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from tests.checkpoints.test_loading import SMALL, classifier
from van_mm import VAN, get_config
from van_mm.apis.build import build_random_model
from van_mm.utils.errors import UserError

OURS = "van_mm.LearningRateDecayOptimWrapperConstructor"
# Depth by name; SMALL has blocks 1 to 5 in stages of 1, 2, 1 and 1.
DEPTHS = {
    "patch_embed1.proj.weight": 0,
    "patch_embed1.norm.bias": 0,
    "block1.0.layer_scale_1": 1,
    "norm1.weight": 1,
    "patch_embed2.proj.weight": 2,
    "block2.0.attn.proj_1.weight": 2,
    "block2.1.attn.proj_1.weight": 3,
    "norm2.bias": 3,
    "patch_embed3.norm.weight": 4,
    "block4.0.mlp.fc2.bias": 5,
    "norm4.bias": 5,
}
STAGES = {"patch_embed1.proj.weight": 0, "block2.1.norm1.bias": 2, "patch_embed3.proj.bias": 3, "norm4.weight": 4}


def build_rates(model, constructor: str = OURS, **options) -> dict[str, float]:
    """Return the learning rate of every parameter, by name, for a base learning rate of 1."""
    optimizer = dict(type="AdamW", lr=1.0, weight_decay=0.1)
    cfg = dict(optimizer=optimizer, constructor=constructor, paramwise_cfg=options)
    groups = build_optim_wrapper(model, cfg).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    return {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_model(codebase: str) -> torch.nn.Module:
    if codebase == "mmpretrain":
        return classifier()
    configs = dict(
        mmdet="det/retinanet_van_b0_1x_coco",
        mmseg="seg/upernet_van_b0",
        mmpose="pose/simplebaseline_van_b2_coco_256x192",
    )
    cfg = get_config(configs[codebase])
    cfg.model.backbone.update(arch=SMALL)
    widths = {"neck": [8, 16, 24, 32], "decode_head": [8, 16, 24, 32], "auxiliary_head": 24, "head": 32}
    for part, channels in widths.items():
        if "in_channels" in cfg.model.get(part, {}):
            cfg.model[part].in_channels = channels
    return build_random_model(cfg)


@pytest.mark.parametrize("codebase", ["mmpretrain", "mmdet", "mmseg", "mmpose"])
@pytest.mark.parametrize("options", [dict(layer_decay_rate=0.5), dict(decay_rate=0.5, num_layers=12)])
def test_learning_rates(codebase, options):
    model = build_model(codebase)
    rates = build_rates(model, norm_decay_mult=0.0, **options)
    for name, depth in DEPTHS.items():
        assert rates[f"backbone.{name}"] == pytest.approx(0.5 ** (6 - depth)), name
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {1.0}


def test_constructor_of_mmpretrain():
    init_default_scope("mmpretrain")
    rates = build_rates(classifier(), "LearningRateDecayOptimWrapperConstructor", layer_decay_rate=0.5)
    for name, depth in DEPTHS.items():
        assert rates[f"backbone.{name}"] == pytest.approx(0.5 ** (6 - depth)), name
    assert rates["head.fc.weight"] == 1.0


def test_by_stage_and_with_custom_keys():
    rates = build_rates(classifier(), layer_decay_rate=0.5, decay_type="stage_wise")
    for name, stage in STAGES.items():
        assert rates[f"backbone.{name}"] == pytest.approx(0.5 ** (5 - stage)), name
    rates = build_rates(classifier(), layer_decay_rate=0.5, custom_keys={"head": dict(lr_mult=10.0)})
    assert rates["head.fc.weight"] == 10.0 and rates["backbone.norm4.weight"] == 0.5


def test_upstream_backbone():
    init_default_scope("mmpretrain")
    vit = dict(arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8), img_size=32, patch_size=16)
    model = torch.nn.Module()
    model.backbone = MODELS.build(dict(type="mmpretrain.VisionTransformer", **vit))
    rates = build_rates(model, layer_decay_rate=0.5)
    assert rates["backbone.layers.0.ln1.weight"] == 0.25 and rates["backbone.pos_embed"] == 0.125


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(norm_decay_mult=0.0), "layer_decay_rate=None .* Set"),
        (dict(layer_decay_rate=2), "layer_decay_rate=2 .*up to 1"),
        (dict(layer_decay_rate=0.9, decay_type="layer_wise_vit"), "Use 'layer_wise' or 'stage_wise'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        build_rates(VAN(arch=SMALL), **options)


def test_model_without_layers():
    with pytest.raises(UserError, match="no module of Linear has get_layer_depth"):
        build_rates(torch.nn.Linear(1, 1), layer_decay_rate=0.9)
