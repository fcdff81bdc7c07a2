"""Each attention module equals its paper's formula, and a VAN with it works wherever a plain one does."""

import itertools
from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.models.backbones.test_van import build_meta_van, count_macs, count_parameters
from tests.models.utils.test_fold import make_van
from van_mm import VAN, fold
from van_mm.models import LKA, LSK, LSKA, MSCA, DeformableLKA
from van_mm.models.backbones.van import ARCH_SETTINGS, build_attention_module
from van_mm.visualization.attention import compute_attention_maps

ARCH = dict(embed_dims=[16, 32, 32, 48], depths=[1, 2, 1, 1], mlp_ratios=[2, 2, 2, 2])  # widths that kernels accept
MODULES = [
    dict(type="LSKA", kernel_size=53),
    dict(type="LSK"),
    dict(type="DeformableLKA"),
    dict(type="MSCA"),
]
each_module = pytest.mark.parametrize("lka_cfg", MODULES, ids=lambda cfg: "-".join(map(str, cfg.values())))


def correlate(x: torch.Tensor, conv: nn.Conv2d, kernel: torch.Tensor | None = None, dilation=None) -> torch.Tensor:
    """Depth-wise convolution as a sum over taps of shifted maps."""
    kernel = conv.weight if kernel is None else kernel
    d = conv.dilation[0] if dilation is None else dilation
    (h, w), (rows, cols) = x.shape[2:], kernel.shape[2:]
    out = torch.zeros_like(x)
    for i, j in itertools.product(range(rows), range(cols)):
        dy, dx = d * (i - rows // 2), d * (j - cols // 2)
        y0, y1, x0, x1 = max(0, -dy), min(h, h - dy), max(0, -dx), min(w, w - dx)
        if y0 < y1 and x0 < x1:
            out[:, :, y0:y1, x0:x1] += kernel[:, 0, i, j].view(-1, 1, 1) * x[:, :, y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    return out if conv.bias is None else out + conv.bias.view(-1, 1, 1)


def mix(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """1x1 convolution as a matrix product."""
    return torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], x) + conv.bias.view(-1, 1, 1)


def assert_attention(module: nn.Module, x: torch.Tensor, expected: torch.Tensor) -> None:
    assert module.attention(x).shape == x.shape
    torch.testing.assert_close(module.attention(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(module(x), x * expected, rtol=1e-10, atol=1e-10)


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 6, 21, 17, dtype=torch.double)


# Widths of the local and the dilated kernel and the dilation, from the branches of the official code.
@pytest.mark.parametrize(
    ("k", "local", "wide", "dilation"),
    [(7, 3, 3, 2), (11, 3, 5, 2), (23, 5, 7, 3), (35, 5, 11, 3), (41, 5, 13, 3), (53, 5, 17, 3)],
)
@torch.no_grad()
def test_lska_is_a_separable_lka(k, local, wide, dilation, x):
    lska = LSKA(6, k).double()
    assert [tuple(c.kernel_size) for c in (lska.conv0h, lska.conv0v)] == [(1, local), (local, 1)]
    assert [tuple(c.kernel_size) for c in (lska.conv_spatial_h, lska.conv_spatial_v)] == [(1, wide), (wide, 1)]
    for name in ("conv0h", "conv_spatial_h"):  # with biases between the two, the outer product is only equal inside
        getattr(lska, name).bias.zero_()
    kernels = [v.weight * h.weight for h, v in ((lska.conv0h, lska.conv0v), (lska.conv_spatial_h, lska.conv_spatial_v))]
    mid = correlate(x, lska.conv0v, kernels[0], 1)
    assert_attention(lska, x, mix(correlate(mid, lska.conv_spatial_v, kernels[1], dilation), lska.conv1))


@torch.no_grad()
def test_lska_of_other_sizes(x):
    """Even kernels keep the size as well, and biases of the rows are used."""
    for k, d in ((8, 2), (13, 3), (5, 1), (29, 4)):
        lska = LSKA(6, k, d).double()
        assert lska(x).shape == x.shape
        assert lska.conv_spatial_h.kernel_size == (1, k // d)
    lska = LSKA(6, 23).double()
    rows = correlate(correlate(x, lska.conv0h), lska.conv0v)
    assert_attention(lska, x, mix(correlate(correlate(rows, lska.conv_spatial_h), lska.conv_spatial_v), lska.conv1))
    with pytest.raises(ValueError, match="smaller than its dilation"):
        LSKA(6, 2, 3)


@torch.no_grad()
def test_lsk_selects_between_two_receptive_fields(x):
    lsk = LSK(6).double()
    near = correlate(x, lsk.conv0)
    small, large = mix(near, lsk.conv1), mix(correlate(near, lsk.conv_spatial), lsk.conv2)
    assert small.shape[1] == large.shape[1] == 3
    pooled = torch.stack([(small.sum(1) + large.sum(1)) / 6, torch.maximum(small, large).max(1)[0]], 1)
    patches = nn.functional.unfold(pooled, 7, padding=3).view(2, 2 * 49, 21, 17)  # dense 7x7 convolution
    logits = torch.einsum("ok,nkhw->nohw", lsk.conv_squeeze.weight.flatten(1), patches)
    weight = 1 / (1 + torch.exp(-logits - lsk.conv_squeeze.bias.view(-1, 1, 1)))
    assert_attention(lsk, x, mix(weight[:, :1] * small + weight[:, 1:] * large, lsk.conv))
    with pytest.raises(ValueError, match="even"):
        LSK(5)


@torch.no_grad()
def test_msca_sums_four_scales(x):
    msca = MSCA(6).double()
    near = correlate(x, msca.conv0)
    total = near.clone()
    for row, column, size in (("conv0_1", "conv0_2", 7), ("conv1_1", "conv1_2", 11), ("conv2_1", "conv2_2", 21)):
        assert getattr(msca, row).kernel_size == (1, size)
        total += correlate(correlate(near, getattr(msca, row)), getattr(msca, column))
    assert_attention(msca, x, mix(total, msca.conv3))


def sample(x: torch.Tensor, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """Bilinear samples (N, C, H, W) of ``x`` at pixels ``ys``, ``xs`` (N, H, W), zero outside."""
    n, c, h, w = x.shape
    out = 0
    for y, wy in ((ys.floor(), 1 - ys % 1), (ys.floor() + 1, ys % 1)):
        for col, wx in ((xs.floor(), 1 - xs % 1), (xs.floor() + 1, xs % 1)):
            inside = (y >= 0) & (y < h) & (col >= 0) & (col < w)
            index = (y.clamp(0, h - 1) * w + col.clamp(0, w - 1)).long().flatten(1)
            values = x.flatten(2).gather(2, index[:, None].expand(-1, c, -1)).view(n, c, *ys.shape[1:])
            out = out + values * (wy * wx * inside)[:, None]
    return out


@torch.no_grad()
def test_deformable_lka_moves_its_taps(x):
    module = DeformableLKA(6).double()
    expected = x
    for conv, size, dilation in ((module.conv0, 5, 1), (module.conv_spatial, 7, 3)):
        offset = conv.offset_net(expected)
        assert offset.shape[1] == 2 * size**2
        assert offset.abs().max() > 0.5  # taps move
        rows, cols = torch.arange(21.0).view(-1, 1).double(), torch.arange(17.0).double()
        out = torch.zeros_like(x)
        for tap in range(size**2):
            i, j = divmod(tap, size)
            ys = rows + dilation * (i - size // 2) + offset[:, 2 * tap]
            xs = cols + dilation * (j - size // 2) + offset[:, 2 * tap + 1]
            out += conv.deform_conv.weight[:, 0, i, j].view(-1, 1, 1) * sample(expected, ys, xs)
        expected = out
    assert_attention(module, x, mix(expected, module.conv1))


@pytest.mark.parametrize(
    ("lka_cfg", "names"),
    [
        (dict(type="LSKA"), "conv0h conv0v conv_spatial_h conv_spatial_v conv1"),
        (dict(type="LSK"), "conv0 conv_spatial conv1 conv2 conv_squeeze conv"),
        (dict(type="MSCA"), "conv0 conv0_1 conv0_2 conv1_1 conv1_2 conv2_1 conv2_2 conv3"),
        (dict(type="DeformableLKA"), "conv0.offset_net conv0.deform_conv conv_spatial.offset_net conv1"),
    ],
)
def test_official_parameter_names(lka_cfg, names):
    unit = VAN(arch=ARCH, lka_cfg=lka_cfg).block1[0].attn.spatial_gating_unit
    modules = {name.rpartition(".")[0] for name, _ in unit.named_parameters()}
    assert set(names.split()) <= modules
    assert len(modules) == len(names.split()) + (lka_cfg["type"] == "DeformableLKA")


@pytest.mark.parametrize(("arch", "params", "flops"), [("lsknet_t", 4.3, 19.1), ("lsknet_s", 14.4, 54.4)])
def test_table_of_lsknet(arch, params, flops):
    """Parameters in millions with a classifier, and multiply-adds in 1e9 at 1024 x 1024 (LSKNet's table 2)."""
    model = build_meta_van(arch=arch)
    classifier = (ARCH_SETTINGS[arch]["embed_dims"][-1] + 1) * 1000
    assert (count_parameters(model) + classifier) / 1e6 == pytest.approx(params, abs=0.06)
    assert count_macs(model, 1024) / 1e9 == pytest.approx(flops, rel=0.03)


def test_parameters_of_lska():
    """A C-channel K = 35 LSKA has 2 (5 + 11) C depth-wise weights, where LKA has (5 * 5 + 12 * 12) C."""
    lska, lka = (build_attention_module(64, name, kernel_size=35) for name in ("LSKA", "LKA"))
    assert count_parameters(lska) == 64 * (2 * (5 + 11) + 4) + 64 * 65
    assert count_parameters(lka) == 64 * (5 * 5 + 12 * 12 + 2) + 64 * 65


def test_arch_and_lka_cfg():
    unit = build_meta_van(arch="LSKNet_T").block1[0].attn.spatial_gating_unit
    assert isinstance(unit, LSK)
    for options, expected in (
        (dict(arch="b0"), LKA),
        (dict(arch="lsknet_t", lka_cfg=dict(type="LKA", sigmoid=True)), LKA),
        (dict(arch="b0", kernel_size=35, lka_cfg=dict(type="van_mm.LSKA")), LSKA),
        (dict(arch="b0", lka_cfg=dict(type=MSCA)), MSCA),
    ):
        assert type(build_meta_van(**options).block4[0].attn.spatial_gating_unit) is expected
    with pytest.raises(ValueError, match="no attention module 'LSKB'.*LSKA"):
        VAN(arch=ARCH, lka_cfg=dict(type="LSKB"))
    with pytest.raises(TypeError, match="sigmoid"):
        VAN(arch=ARCH, lka_cfg=dict(type="LSK", sigmoid=True))


@each_module
def test_training(lka_cfg):
    """Recomputed blocks, frozen stages and layer depths work; every trained parameter gets a finite gradient."""
    torch.manual_seed(0)
    model = VAN(arch=ARCH, lka_cfg=lka_cfg, frozen_stages=1, drop_path_rate=0.1, norm_eval=True)
    model.init_weights()
    model.train()
    other = deepcopy(model)
    other.with_cp = True
    x = torch.randn(2, 3, 64, 96)
    for van in (model, other):
        torch.manual_seed(1)
        sum(out.pow(2).mean() for out in van(x)).backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (name.split(".")[0][-1] == "1"), name
        if p.grad is not None:
            assert p.grad.isfinite().all()
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)
    depths = {model.get_layer_depth(name) for name in model.state_dict() if name.startswith("block2.1.attn")}
    assert depths == {(3, 7)}


@each_module
@torch.no_grad()
def test_autocast_attention_maps_and_fold(lka_cfg, monkeypatch):
    model, x = make_van(arch=ARCH, lka_cfg=lka_cfg), torch.randn(1, 3, 75, 94)
    monkeypatch.setattr("van_mm.models.backbones.fused_block.run_fused", lambda *_: pytest.fail("no kernel fits"))
    before = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all((a - b).norm() < 0.1 * b.norm() for a, b in zip(model(x), before, strict=True))
    half = deepcopy(model).bfloat16()
    assert all((a - b).norm() < 0.1 * b.norm() for a, b in zip(half(x.bfloat16()), before, strict=True))
    maps = compute_attention_maps(model, x)
    assert list(maps) == [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)]
    assert maps[1, 1].shape == (1, 19, 24)
    for a, b in zip(fold(model)(x), before, strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()


@each_module
@torch.no_grad()
def test_graphs(lka_cfg):
    """A trace, a script (of an fx graph) and an exported program give the same at another size."""
    kinds = ["trace", "script", "export"] if lka_cfg["type"] in ("LSK", "DeformableLKA") else ["script"]
    arch = dict(embed_dims=[16], depths=[1], mlp_ratios=[2])  # recording takes seconds a block
    model, example, x = (
        make_van(arch=arch, out_indices=(0,), lka_cfg=lka_cfg),
        torch.rand(2, 3, 64, 96),
        torch.rand(3, 3, 70, 50),
    )
    sizes = ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},)
    for kind in kinds:
        if kind == "export":
            graph = torch.export.export(model, (example,), dynamic_shapes=sizes).module()
        else:
            graph = torch.jit.script(model) if kind == "script" else torch.jit.trace(model, example)
        for out, expected in zip(graph(x), model(x), strict=True):
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
