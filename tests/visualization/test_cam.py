"""Class activation maps: the choice of layer and class, and the map against a direct computation."""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from van_mm.utils.errors import UserError
from van_mm.visualization.cam import (
    CAM_METHODS,
    ClassifierLogits,
    compute_cam,
    find_target_layer,
    make_reshape_transform,
    parse_target_class,
)

BACKBONES = {
    "van": (dict(type="van_mm.VAN", arch="b0", out_indices=(3,)), 256, "block4.1"),
    "resnet": (dict(type="ResNet", depth=18, out_indices=(3,)), 512, "layer4"),
    "convnext": (dict(type="ConvNeXt", arch="atto", gap_before_final_norm=True), 320, "stages.3"),
    "swin": (dict(type="SwinTransformer", arch="tiny", pad_small_map=True), 768, "stages.3.blocks.1"),
}


def build_classifier(name):
    backbone, channels, _ = BACKBONES[name]
    neck = None if name == "convnext" else dict(type="GlobalAveragePooling")
    head = dict(type="LinearClsHead", in_channels=channels, num_classes=10)
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    model = MODELS.build(dict(type="ImageClassifier", backbone=backbone, neck=neck, head=head))
    model.eval()
    return model


@pytest.mark.parametrize("name", BACKBONES)
def test_default_layer(name):
    model = build_classifier(name)
    layer = find_target_layer(model, None, (64, 96))
    assert {module: key for key, module in model.backbone.named_modules()}[layer] == BACKBONES[name][2]
    maps, scores = compute_cam(ClassifierLogits(model), torch.randn(2, 3, 64, 96))
    assert maps.shape == (2, 64, 96) and scores.shape == (2, 10)
    assert maps.min() >= 0 and maps.max() <= 1 and maps.std() > 0
    assert np.allclose(scores.sum(1), 1, atol=1e-5)


def test_equals_class_weights_times_features():
    """Before average pooling and a linear layer, Grad-CAM is the ReLU of the features weighted by the class weights."""
    model = build_classifier("resnet")
    images = torch.randn(1, 3, 128, 96)
    maps, _ = compute_cam(ClassifierLogits(model), images, [3])
    with torch.no_grad():
        features = model.backbone(images)[0]
        expected = (model.head.fc.weight[3].view(1, -1, 1, 1) * features).sum(1).relu()[0].numpy()
    coarse = maps[0].reshape(4, 32, 3, 32)[:, 15:17, :, 15:17].mean((1, 3))  # bilinear: exact at cell centers
    expected = (expected - expected.min()) / expected.max()
    assert np.corrcoef(coarse.ravel(), expected.ravel())[0, 1] > 0.99


def test_map_depends_on_the_class():
    network = ClassifierLogits(build_classifier("van"))
    images = torch.randn(1, 3, 96, 96)
    assert not np.allclose(compute_cam(network, images, [1])[0], compute_cam(network, images, [2])[0])


@pytest.mark.parametrize("method", CAM_METHODS)
def test_cam_methods(method):
    maps, _ = compute_cam(ClassifierLogits(build_classifier("resnet")), torch.randn(1, 3, 64, 64), [0], method=method)
    assert maps.shape == (1, 64, 64) and np.isfinite(maps).all()


@pytest.mark.parametrize("layer", ["backbone.block1.0", "backbone.block3.1.attn.spatial_gating_unit.conv1"])
def test_inner_layers(layer):
    maps, _ = compute_cam(ClassifierLogits(build_classifier("van")), torch.randn(1, 3, 64, 64), layer=layer)
    assert maps.std() > 0


def test_unknown_layers():
    network = ClassifierLogits(build_classifier("van"))
    with pytest.raises(UserError, match=r"no layer 'backbone\.block9'.*backbone\.block"):
        compute_cam(network, torch.randn(1, 3, 64, 64), layer="backbone.block9")
    with pytest.raises(UserError, match="gives no map"):
        compute_cam(network, torch.randn(1, 3, 64, 64), layer="head.fc")
    no_map = nn.Module()
    no_map.backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(UserError, match="--target-layer"):
        find_target_layer(no_map, None, (2, 2))


def test_token_layouts_are_reshaped():
    x = torch.randn(2, 5, 4, 6)
    reshape = make_reshape_transform((64, 96))
    assert torch.equal(reshape(x), x)
    tokens = x.flatten(2).transpose(1, 2)
    assert torch.equal(reshape(tokens), x)
    assert torch.equal(reshape(torch.cat([torch.zeros(2, 1, 5), tokens], 1)), x)  # with a class token


def test_class_names_and_indices():
    names = ["tench, Tinca tinca", "goldfish, Carassius auratus", "tiger cat"]
    assert [parse_target_class(text, names, 3) for text in ("goldfish", "Tinca Tinca", "2", "tiger cat")] == [
        1,
        0,
        2,
        2,
    ]
    for text, words in (
        ("goldfisch", "Did you mean goldfish"),
        ("3", "classes are 0 to 2"),
        ("-1", "0 to 2"),
        ("dog", "no such"),
    ):
        with pytest.raises(UserError, match=words):
            parse_target_class(text, names, 3)
