"""A block by the compiled kernels is the block."""

import copy

import pytest
import torch

from tests.models.utils.test_fold import stir_norms
from van_mm import VAN, fold
from van_mm.analysis.benchmarking import count_saved_bytes
from van_mm.models.backbones.van import Block
from van_mm.ops import library
from van_mm.ops.dispatch import can_use_kernels
from van_mm.ops.library import load_library

pytestmark = pytest.mark.skipif(not load_library(), reason="the kernels are not compiled: python -m van_mm.ops")
OPTIONS = dict(
    mlp_ratio=4, drop_rate=0.0, drop_path_rate=0.0, layer_scale_init_value=0.5, norm_cfg=dict(type="BN"),
    act_cfg=dict(type="GELU"), lka_cfg={},
)  # fmt: skip


def make(channels: int = 32, **options) -> Block:
    torch.manual_seed(0)
    block = Block(channels, **OPTIONS | options)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.1))
    return stir_norms(block)


def images(channels: int = 32, size: tuple[int, int] = (13, 9), mean: float = 1.0) -> torch.Tensor:
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1)) + mean


def results(block: Block, x: torch.Tensor, loaded: bool, monkeypatch) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of a forward and backward pass, with or without the kernels."""
    monkeypatch.setattr(library, "is_loaded", loaded)
    block, x = copy.deepcopy(block), x.clone().requires_grad_()
    assert can_use_kernels(block, x) == loaded
    torch.manual_seed(2)
    out = block(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out))
    grads = {name: p.grad for name, p in block.named_parameters()}
    return dict(out=out.detach(), x=x.grad, **grads, **dict(block.named_buffers()))


@pytest.mark.parametrize("size", [(13, 9), (1, 1), (40, 56), (2, 31)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(layer_scale_init_value=0),
        dict(drop_path_rate=0.4),
        dict(lka_cfg=dict(kernel_size=7)),
        dict(lka_cfg=dict(kernel_size=14)),
        dict(lka_cfg=dict(kernel_size=28, dilation=4)),
        dict(mlp_ratio=8, channels=64),
    ],
    ids=str,
)
def test_training_equals_the_plain_block(options, size, monkeypatch):
    block = make(**options).train()
    x = images(options.get("channels", 32), size)
    ours, plain = (results(block, x, loaded, monkeypatch) for loaded in (True, False))
    assert ours.keys() == plain.keys()
    for name, value in plain.items():
        # A sum that is zero but for rounding, as a bias's before a norm, is judged by the gradients around it.
        floor = 1e-6 * max(plain["x"].norm(), 1)
        assert (ours[name] - value).float().norm() <= 1e-4 * value.float().norm() + floor, name


def test_gradients_of_features_far_from_zero(monkeypatch):
    """BatchNorm takes away a mean fifty times the deviation; in the weights that is a difference of large numbers."""
    block, x = make().train(), images(mean=0) * 0.1 + 5
    ours = results(block, x, True, monkeypatch)
    exact = results(block.double(), x.double(), False, monkeypatch)
    for name, value in exact.items():
        assert (ours[name] - value).double().norm() <= 1e-4 * value.double().norm(), name


@pytest.mark.parametrize("gradients", [True, False])
def test_eval(gradients, monkeypatch):
    block, x = make().eval(), images(size=(40, 33))
    outs = []
    for loaded in (True, False):
        monkeypatch.setattr(library, "is_loaded", loaded)
        with torch.set_grad_enabled(gradients):
            outs.append(block(x).detach())
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)


def test_autocast(monkeypatch):
    """bfloat16 inside, float32 between the blocks."""
    block, x = make().train(), images(size=(20, 20))
    exact = results(block, x, False, monkeypatch)
    monkeypatch.setattr(library, "is_loaded", True)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert can_use_kernels(block, x)
        out = block(x)
    assert out.dtype == torch.float32
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
    assert (out - exact["out"]).norm() < 2e-2 * exact["out"].norm()
    assert (x.grad - exact["x"]).norm() < 2e-2 * exact["x"].norm()
    for name, p in block.named_parameters():
        assert (p.grad - exact[name]).norm() < 5e-2 * exact[name].norm() + 1e-2, name


def test_frozen_and_norm_eval(monkeypatch):
    model = VAN(
        arch=dict(embed_dims=[16] * 4, depths=[1, 1, 1, 1], mlp_ratios=[2] * 4), frozen_stages=1, norm_eval=True
    )
    model.init_weights()
    model.train()
    before = copy.deepcopy(model.state_dict())
    sum(out.mean() for out in model(torch.randn(1, 3, 64, 64))).backward()
    assert all((p.grad is None) == name.split(".")[0].endswith("1") for name, p in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        dict(act_cfg=dict(type="ReLU")),
        dict(norm_cfg=dict(type="GN", num_groups=4)),
        dict(norm_cfg=dict(type="SyncBN")),
        dict(drop_rate=0.1),
        dict(channels=24),
        dict(lka_cfg=dict(sigmoid=True)),
        dict(lka_cfg=dict(fusion="add")),
        dict(lka_cfg=dict(dw_conv=False)),
        dict(lka_cfg=dict(pw_conv=False)),
        dict(lka_cfg=dict(decompose=False)),
        dict(lka_cfg=dict(kernel_size=28)),  # ten taps an axis, and four: even ones are not the kernels'
        dict(lka_cfg=dict(kernel_size=7, dilation=2)),
    ],
    ids=str,
)
def test_other_blocks_are_left_to_pytorch(options):
    assert not can_use_kernels(make(**options).train(), images(options.get("channels", 32)))


def test_one_pixel_is_refused_as_ever():
    with pytest.raises(ValueError, match="more than 1 value"):
        make().train()(torch.randn(1, 32, 1, 1))


def test_no_second_derivatives():
    """They are refused instead of being wrong."""
    x = images().requires_grad_()
    (grad,) = torch.autograd.grad(make().train()(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_hooks_see_what_they_ask_for():
    block, x = make().eval(), images()
    assert can_use_kernels(block, x)
    seen = []
    handle = block.attn.spatial_gating_unit.conv1.register_forward_hook(lambda *args: seen.append(args))
    block(x)
    assert len(seen) == 1
    handle.remove()
    assert can_use_kernels(block, x)


def test_folded_block_follows_its_parameters():
    """Packed weights are made again after a change of type or of the weights."""
    torch.manual_seed(0)
    arch = dict(embed_dims=[16, 32, 32, 48], depths=[1] * 4, mlp_ratios=[2] * 4)
    model, other = (VAN(arch=arch) for _ in range(2))
    x = torch.randn(1, 3, 64, 64)
    for van in (model, other):
        van.init_weights()
        fold(van.eval())
    with torch.no_grad():
        single = model(x)
        half = model.bfloat16()(x.bfloat16())
        assert half[3].dtype == torch.bfloat16
        assert (half[3] - single[3]).norm() < 3e-2 * single[3].norm()
        model.float()(x)
        model.load_state_dict(other.state_dict())
        assert torch.equal(model(x)[3], other(x)[3])


def test_memory_kept_for_the_backward_pass():
    """Issue: at most 0.65 of what mmpretrain's keeps, 0.25 with checkpointing; here for a small image."""
    from mmpretrain.models import VAN as Reference

    x = torch.randn(1, 3, 96, 96)
    reference = count_saved_bytes(Reference("base", out_indices=(0, 1, 2, 3)), x)
    assert count_saved_bytes(VAN("b2"), x) <= 0.65 * reference
    assert count_saved_bytes(VAN("b2", with_cp=True), x) <= 0.25 * reference


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_compiled(mode):
    """torch.compile gets the plain modules in one graph, with the depth-wise kernel in it."""
    torch.manual_seed(0)
    model = VAN(arch=dict(embed_dims=[16] * 4, depths=[1, 2, 1, 1], mlp_ratios=[2] * 4))
    model.init_weights()
    model.train(mode)
    x = torch.randn(2, 3, 64, 75)
    expected = copy.deepcopy(model)(x)
    for ours, theirs in zip(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
