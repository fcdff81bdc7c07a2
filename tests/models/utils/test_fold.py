"""A folded model gives the same output."""

import sys

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from van_mm import VAN, fold
from van_mm.models.backbones.van import Block

fold_module = sys.modules[fold.__module__]
SMALL = dict(embed_dims=[16, 32, 32, 48], depths=[1, 2, 1, 1], mlp_ratios=[2, 2, 2, 2])
VARIANTS = [
    {},
    dict(layer_scale_init_value=0),
    dict(lka_cfg=dict(dw_conv=False, sigmoid=True)),
    dict(lka_cfg=dict(dw_d_conv=False)),
    dict(lka_cfg=dict(pw_conv=False, fusion="add")),
    dict(lka_cfg=dict(fusion="none")),
    dict(lka_cfg=dict(decompose=False)),
    dict(kernel_size=7, dilation=2),
    dict(kernel_size=14),
    dict(kernel_size=28, dilation=4),
    dict(norm_cfg=dict(type="GN", num_groups=4)),
]


def stir_norms(model: nn.Module) -> nn.Module:
    """Randomize the running statistics of every BatchNorm."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model


def make_van(**options) -> VAN:
    """Build a small VAN whose norms, LayerScale and biases are random, so that all affect the output."""
    torch.manual_seed(0)
    model = VAN(**{"arch": SMALL, **options})
    model.init_weights()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "layer_scale" in name or p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.3)
    return stir_norms(model).eval()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_folded_equals_original(options):
    model, x = make_van(**options), torch.randn(1, 3, 111, 79)
    before = model(x)
    assert fold(model) is model
    for a, b in zip(model(x), before, strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()
    remaining = [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, Block))]
    assert ("norm_cfg" in options) == bool(remaining)


class RefuseDouble(TorchDispatchMode):
    """Raise on tensors in double precision, as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_leaves(out)):
            raise TypeError(f"{func}: this device has no float64")
        return out


@torch.no_grad()
def test_device_without_double_precision(monkeypatch):
    model, x = make_van(), torch.randn(1, 3, 64, 64)
    before = model(x)
    monkeypatch.setattr(fold_module, "DEVICES_WITHOUT_DOUBLE", ("cpu",))
    with RefuseDouble():
        fold(model)
    for a, b in zip(model(x), before, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()


def test_training_mode_raises():
    with pytest.raises(ValueError, match="eval"):
        fold(VAN(arch=SMALL))


@torch.no_grad()
def test_whole_model():
    """The heads of a segmentor are folded too."""
    from mmengine.registry import MODELS, init_default_scope

    from van_mm import get_config

    cfg = get_config("seg/upernet_van_b0")
    init_default_scope("mmseg")
    cfg.model.backbone.update(arch=dict(SMALL, embed_dims=[32, 64, 160, 256]), norm_cfg=dict(type="BN"), init_cfg=None)
    cfg.model.decode_head.norm_cfg = cfg.model.auxiliary_head.norm_cfg = dict(type="BN")
    model = MODELS.build(cfg.model).eval()
    stir_norms(model)
    x = torch.randn(1, 3, 64, 96)
    before = model(x, mode="tensor")
    after = fold(model)(x, mode="tensor")
    assert (after - before).norm() < 1e-5 * before.norm()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
