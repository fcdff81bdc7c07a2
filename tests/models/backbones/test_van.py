"""The backbone agrees with the paper's tables and mmpretrain's VAN, and its options work."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from van_mm.models.backbones.van import ARCH_SETTINGS, LKA, VAN
from van_mm.models.layers.depthwise_conv import DepthwiseConv2d
from van_mm.ops import library
from van_mm.ops.library import load_library

# Table 5: parameters in millions and multiply-adds in 1e9 at 224 x 224, with the classifier.
TABLE_5 = {
    "b0": (4.1, 0.9),
    "b1": (13.9, 2.5),
    "b2": (26.6, 5.0),
    "b3": (44.8, 9.0),
    "b4": (60.3, 12.2),
    "b5": (90.0, 17.2),
    "b6": (200, 38.9),
}
SMALL = dict(embed_dims=[8, 16, 24, 32], depths=[1, 2, 1, 1], mlp_ratios=[2, 2, 2, 2])


def build_meta_van(**kwargs) -> VAN:
    with torch.device("meta"):
        return VAN(**kwargs)


def count_parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def count_macs(model, size: int = 224) -> int:
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("arch", TABLE_5)
def test_table_5(arch):
    model = build_meta_van(arch=arch)
    params, flops = TABLE_5[arch]
    classifier = (ARCH_SETTINGS[arch]["embed_dims"][-1] + 1) * 1000
    digits = 0 if params == 200 else 1
    assert round((count_parameters(model) + classifier) / 1e6, digits) == params
    # Table 5 prints 38.4 for B6, but table 8 prints 38.9 for the same model. The count agrees with table 8.
    assert round(count_macs(model) / 1e9, 1) == pytest.approx(flops, rel=0.02, abs=0.051)


@pytest.mark.parametrize(
    ("options", "params"),
    [
        (dict(lka_cfg=dict(dw_conv=False)), 4.1),
        (dict(lka_cfg=dict(dw_d_conv=False)), 4.0),
        (dict(lka_cfg=dict(fusion="none")), 4.1),
        (dict(lka_cfg=dict(fusion="add")), 4.1),
        (dict(lka_cfg=dict(pw_conv=False)), 3.8),
        (dict(lka_cfg=dict(sigmoid=True)), 4.1),
        (dict(lka_cfg=dict(decompose=False)), 124.7),
    ],
)
def test_table_3(options, params):
    model = build_meta_van(arch="b0", **options)
    assert round((count_parameters(model) + 257 * 1000) / 1e6, 1) == params
    assert model(torch.zeros(1, 3, 64, 64, device="meta"))[-1].shape == (1, 256, 2, 2)


@pytest.mark.parametrize(("k", "d", "params"), [(7, 2, 4.03), (14, 3, 4.07), (21, 3, 4.11), (28, 4, 4.14)])
def test_table_6(k, d, params):
    model = build_meta_van(arch="b0", kernel_size=k, dilation=d)
    assert round((count_parameters(model) + 257 * 1000) / 1e6, 2) == params
    assert model(torch.zeros(1, 3, 96, 96, device="meta"))[0].shape == (1, 32, 24, 24)


def to_mmpretrain(key: str) -> str:
    for old, new in (
        (r"^block(\d)", r"blocks\1"),
        (r"\.proj\.", ".projection."),
        ("conv0", "DW_conv"),
        ("conv_spatial", "DW_D_conv"),
        (r"dwconv\.dwconv", "dwconv"),
    ):
        key = re.sub(old, new, key)
    return key


@pytest.mark.parametrize("arch", ["tiny", "small", "base", "large"])
def test_equals_mmpretrain(arch):
    from mmpretrain.models import VAN as Reference

    torch.manual_seed(0)
    model = VAN(arch=arch)
    model.init_weights()
    for module in model.modules():  # give the norms an effect
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    # The official eps. mmpretrain's default, 1e-5, changes the result because these random features are small.
    reference = Reference(arch=arch, out_indices=(0, 1, 2, 3), norm_cfg=dict(type="LN", eps=1e-6))
    reference.load_state_dict({to_mmpretrain(key): value for key, value in model.state_dict().items()})
    model.eval()
    reference.eval()
    x = torch.randn(1, 3, 100, 68)
    with torch.no_grad():
        for a, b in zip(model(x), reference(x), strict=True):
            assert a.shape == b.shape
            assert (a - b).norm() / b.norm() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 47), (9, 64)])
@pytest.mark.parametrize(("kernel", "dilation"), [(7, 3), (5, 3), (4, 2), (4, 3), (7, 4), (3, 1), (5, 1)])
def test_depthwise_conv_equals_stock(height, width, kernel, dilation, monkeypatch):
    """Without compiled kernels, the convolution equals nn.Conv2d, gradients included."""
    monkeypatch.setattr(library, "is_loaded", False)
    torch.manual_seed(0)
    conv = DepthwiseConv2d(6, kernel, dilation)
    x = torch.randn(2, 6, height, width)
    out, expected = conv(x), torch.nn.Conv2d.forward(conv, x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)

    conv, x = conv.double(), x.double().requires_grad_()  # only rounding errors of 1e-15 remain
    weight = torch.randn_like(x)
    grads = [
        torch.autograd.grad((out * weight).sum(), (x, conv.weight, conv.bias))
        for out in (conv(x), torch.nn.Conv2d.forward(conv, x))
    ]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_choice_of_algorithm(monkeypatch):
    x = torch.zeros(1, 16, 4, 4)
    conv, dilated, even = DepthwiseConv2d(16, 5), DepthwiseConv2d(16, 7, 3), DepthwiseConv2d(16, 4, 2)
    monkeypatch.setattr(library, "is_loaded", load_library() or pytest.skip("the kernels are not compiled"))
    assert [c.choose_algorithm(x) for c in (conv, dilated, even)] == ["kernel", "kernel", "torch"]
    assert dilated.choose_algorithm(x.to("meta")) == "torch"
    assert dilated.choose_algorithm(x.double()) == "phases"
    assert conv.choose_algorithm(x.bfloat16()) == "kernel"
    assert DepthwiseConv2d(6, 5).choose_algorithm(x[:, :6]) == "torch"
    with torch.autocast("cpu", torch.bfloat16):
        assert conv.choose_algorithm(x) == "kernel"
        assert conv(x).dtype == torch.bfloat16
    monkeypatch.setattr(library, "is_loaded", False)
    assert [c.choose_algorithm(x) for c in (conv, DepthwiseConv2d(16, 7, 3))] == ["torch", "phases"]
    monkeypatch.setattr(DepthwiseConv2d, "forced_algorithm", "phases")
    torch.testing.assert_close(conv(torch.ones(1, 16, 9, 9)), torch.nn.Conv2d.forward(conv, torch.ones(1, 16, 9, 9)))


def test_lka_is_equation_2():
    lka = LKA(4)
    x = torch.randn(1, 4, 20, 20)
    assert lka.conv0.kernel_size == (5, 5) and lka.conv_spatial.kernel_size == (7, 7)
    assert lka.conv_spatial.dilation == (3, 3) and lka.conv1.kernel_size == (1, 1)
    torch.testing.assert_close(lka(x), x * lka.conv1(lka.conv_spatial(lka.conv0(x))))
    with pytest.raises(ValueError, match="fusion"):
        LKA(4, fusion="multiply")


def test_output_shapes_and_out_indices():
    model = VAN(arch=SMALL, in_channels=1, out_indices=(3, 1)).eval()
    last, second = model(torch.randn(2, 1, 50, 75))
    assert last.shape == (2, 32, 2, 3) and second.shape == (2, 16, 7, 10)
    for bad in ((4,), (), (-1,)):
        with pytest.raises(ValueError, match="out_indices"):
            VAN(arch=SMALL, out_indices=bad)


def test_unknown_arch():
    with pytest.raises(ValueError, match="b0, b1, .*tiny"):
        VAN(arch="b7")
    with pytest.raises(ValueError, match="embed_dims"):
        VAN(arch=dict(embed_dims=[8], depths=[1]))


def test_train_keeps_frozen_stages_frozen():
    model = VAN(arch=SMALL, frozen_stages=2)
    assert model.train() is model and model.eval() is model
    model.train()
    for i in range(1, 5):
        for name in ("patch_embed", "block", "norm"):
            module = getattr(model, f"{name}{i}")
            assert all(p.requires_grad == (i > 2) for p in module.parameters())
            assert all(m.training == (i > 2) for m in module.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sum(out.sum() for out in model(torch.randn(2, 3, 32, 32))).backward()
    after = model.state_dict()
    assert torch.equal(after["block1.0.norm1.running_mean"], before["block1.0.norm1.running_mean"])
    assert not torch.equal(after["block3.0.norm1.running_mean"], before["block3.0.norm1.running_mean"])


def test_norm_eval():
    model = VAN(arch=SMALL, norm_eval=True).train()
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert model.training and model.norm1.training


def test_drop_path_rises_linearly():
    model = VAN(arch=SMALL, drop_path_rate=0.4)
    rates = [getattr(b.drop_path, "drop_prob", 0) for i in range(1, 5) for b in getattr(model, f"block{i}")]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_layer_scale():
    on, off = VAN(arch=SMALL, layer_scale_init_value=0.5), VAN(arch=SMALL, layer_scale_init_value=0)
    assert torch.all(on.block1[0].layer_scale_1 == 0.5)
    assert not any("layer_scale" in key for key in off.state_dict())
    assert off.eval()(torch.randn(1, 3, 32, 32))[-1].shape == (1, 32, 1, 1)


def test_with_cp_gives_the_same_gradients():
    torch.manual_seed(0)
    plain, checkpointed = VAN(arch=SMALL), VAN(arch=SMALL, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 40, 40)
    for model in (plain, checkpointed):
        sum(out.square().sum() for out in model(x)).backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_initialization_equals_the_official():
    torch.manual_seed(0)
    model = VAN(arch="b0")
    model.init_weights()
    conv = model.block2[0].mlp.fc1  # 64 -> 512, 1 x 1: fan_out 512
    assert conv.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    assert torch.all(conv.bias == 0) and torch.all(model.block1[0].layer_scale_2 == 0.01)
    depthwise = model.block2[0].attn.spatial_gating_unit.conv_spatial  # groups = channels: fan_out 49
    assert depthwise.weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.1)


def test_official_parameter_names():
    keys = set(build_meta_van(arch="b0").state_dict())
    for key in (
        "patch_embed1.proj.weight",
        "patch_embed4.norm.running_var",
        "block1.0.norm1.weight",
        "block1.0.attn.proj_1.weight",
        "block1.0.attn.spatial_gating_unit.conv0.weight",
        "block1.0.attn.spatial_gating_unit.conv_spatial.bias",
        "block1.0.attn.spatial_gating_unit.conv1.weight",
        "block4.1.mlp.dwconv.dwconv.weight",
        "block4.1.mlp.fc2.bias",
        "block3.4.layer_scale_1",
        "norm4.weight",
    ):
        assert key in keys
    assert len(keys) == len(set(map(to_mmpretrain, keys)))


def test_sync_bn_and_activation():
    model = VAN(arch=SMALL, norm_cfg=dict(type="SyncBN"), act_cfg=dict(type="ReLU"))
    assert isinstance(model.block1[0].norm1, torch.nn.SyncBatchNorm)
    assert isinstance(model.block1[0].mlp.act, torch.nn.ReLU)
