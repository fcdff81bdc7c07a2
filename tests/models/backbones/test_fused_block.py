"""A block that runs on the compiled kernels gives the results of the plain PyTorch block."""

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


def make_block(channels: int = 32, **options) -> Block:
    torch.manual_seed(0)
    block = Block(channels, **OPTIONS | options)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.1))
    return stir_norms(block)


def make_input(channels: int = 32, size: tuple[int, int] = (13, 9), mean: float = 1.0) -> torch.Tensor:
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1)) + mean


def run_block(block: Block, x: torch.Tensor, loaded: bool, monkeypatch) -> dict[str, torch.Tensor]:
    """Return output, gradients and running statistics of a forward and backward pass, with or without the kernels."""
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
    block = make_block(**options).train()
    x = make_input(options.get("channels", 32), size)
    actual, plain = (run_block(block, x, loaded, monkeypatch) for loaded in (True, False))
    assert actual.keys() == plain.keys()
    for name, value in plain.items():
        # The gradient of a bias before a BatchNorm is zero except for rounding errors, which the floor allows for.
        floor = 1e-6 * max(plain["x"].norm(), 1)
        assert (actual[name] - value).float().norm() <= 1e-4 * value.float().norm() + floor, name


def test_gradients_of_features_far_from_zero(monkeypatch):
    """Gradients stay accurate when the mean of the features is fifty times their standard deviation.

    BatchNorm subtracts this mean, so the gradients of the weights are differences of large numbers.
    """
    block, x = make_block().train(), make_input(mean=0) * 0.1 + 5
    actual = run_block(block, x, True, monkeypatch)
    exact = run_block(block.double(), x.double(), False, monkeypatch)
    for name, value in exact.items():
        assert (actual[name] - value).double().norm() <= 1e-4 * value.double().norm(), name


@pytest.mark.parametrize("gradients", [True, False])
def test_eval_equals_the_plain_block(gradients, monkeypatch):
    block, x = make_block().eval(), make_input(size=(40, 33))
    outs = []
    for loaded in (True, False):
        monkeypatch.setattr(library, "is_loaded", loaded)
        with torch.set_grad_enabled(gradients):
            outs.append(block(x).detach())
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)


def test_autocast(monkeypatch):
    """Under autocast a block computes in bfloat16 and returns float32."""
    block, x = make_block().train(), make_input(size=(20, 20))
    exact = run_block(block, x, False, monkeypatch)
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
        dict(lka_cfg=dict(kernel_size=28)),  # kernels of 10 and 4: the compiled kernels need odd sizes
        dict(lka_cfg=dict(kernel_size=7, dilation=2)),
    ],
    ids=str,
)
def test_unsupported_blocks_use_pytorch(options):
    assert not can_use_kernels(make_block(**options).train(), make_input(options.get("channels", 32)))


def test_one_pixel_in_training_raises():
    with pytest.raises(ValueError, match="more than 1 value"):
        make_block().train()(torch.randn(1, 32, 1, 1))


def test_second_derivatives_raise():
    """Second derivatives raise an error instead of being wrong."""
    x = make_input().requires_grad_()
    (grad,) = torch.autograd.grad(make_block().train()(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_hooks_inside_the_block_are_called():
    block, x = make_block().eval(), make_input()
    assert can_use_kernels(block, x)
    seen = []
    handle = block.attn.spatial_gating_unit.conv1.register_forward_hook(lambda *args: seen.append(args))
    block(x)
    assert len(seen) == 1
    handle.remove()
    assert can_use_kernels(block, x)


def test_folded_block_follows_its_parameters():
    """A folded block packs its weights again after its dtype or its weights change."""
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


def test_memory_saved_for_the_backward_pass():
    """VAN saves at most 0.65 of the bytes that mmpretrain's VAN saves, and 0.25 with checkpointing."""
    from mmpretrain.models import VAN as Reference

    x = torch.randn(1, 3, 96, 96)
    reference = count_saved_bytes(Reference("base", out_indices=(0, 1, 2, 3)), x)
    assert count_saved_bytes(VAN("b2"), x) <= 0.65 * reference
    assert count_saved_bytes(VAN("b2", with_cp=True), x) <= 0.25 * reference


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_compiled(mode):
    """torch.compile traces the plain modules into one graph, which includes the depthwise kernel."""
    torch.manual_seed(0)
    model = VAN(arch=dict(embed_dims=[16] * 4, depths=[1, 2, 1, 1], mlp_ratios=[2] * 4))
    model.init_weights()
    model.train(mode)
    x = torch.randn(2, 3, 64, 75)
    expected = copy.deepcopy(model)(x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    for out, reference in zip(compiled, expected, strict=True):
        torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)
