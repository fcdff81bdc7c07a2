"""The compiled kernels equal PyTorch's convolutions, gradients included."""

import subprocess

import pytest
import torch
import torch.nn.functional as F

from van_mm import VAN, ops


@pytest.fixture(autouse=True)
def compiled():
    if not ops.load():
        try:
            ops.build()
        except RuntimeError as error:
            pytest.skip(str(error))
        assert ops.load()


def stock(x, weight, bias, dilation):
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2 * dilation, dilation=dilation, groups=x.shape[1])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 50), (33, 47), (9, 64)])
@pytest.mark.parametrize(("kernel", "dilation"), [(7, 3), (5, 3), (7, 4), (3, 1), (5, 1), (9, 2), (21, 1)])
@pytest.mark.parametrize("channels", [16, 48, 160])
def test_equals_stock(height, width, kernel, dilation, channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, height, width, requires_grad=True)
    weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
    bias = torch.randn(channels, requires_grad=True)
    seed = torch.randn(2, channels, height, width)
    ours = torch.ops.van_mm.dwconv(x, weight, bias, dilation)
    grads = torch.autograd.grad(ours, (x, weight, bias), seed)
    double = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    theirs = stock(*double, dilation)
    assert (ours - theirs).norm() / theirs.norm() < 1e-6
    for grad, reference in zip(grads, torch.autograd.grad(theirs, double, seed.double()), strict=True):
        assert grad.shape == reference.shape
        assert (grad - reference).norm() / reference.norm() < 1e-5


def test_without_bias_and_with_frozen_parts():
    x, weight = torch.randn(1, 16, 8, 8), torch.randn(16, 1, 3, 3, requires_grad=True)
    torch.testing.assert_close(torch.ops.van_mm.dwconv(x, weight, None, 1), stock(x, weight, None, 1))
    torch.ops.van_mm.dwconv(x, weight, None, 1).sum().backward()
    assert weight.grad is not None and x.grad is None
    x.requires_grad_()
    torch.ops.van_mm.dwconv(x, weight.detach(), None, 1).sum().backward()
    assert x.grad is not None


def test_registration():
    """Shapes, strides and gradients are what PyTorch is told they are."""
    args = (torch.randn(2, 16, 5, 6).contiguous(memory_format=torch.channels_last), torch.randn(16, 1, 3, 3))
    args = (*(a.requires_grad_() for a in args), torch.randn(16, requires_grad=True), 2)
    torch.library.opcheck(torch.ops.van_mm.dwconv.default, args)


@pytest.mark.parametrize(
    ("x", "kernel", "message"),
    [
        (torch.zeros(1, 6, 4, 4), 3, "multiples"),
        (torch.zeros(1, 16, 4, 4).double(), 3, "float"),
        (torch.zeros(1, 16, 4, 4), 4, "odd"),
    ],
)
def test_refusals(x, kernel, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.van_mm.dwconv(x, torch.zeros(x.shape[1], 1, kernel, kernel, dtype=x.dtype), None, 1)


def test_a_van_without_kernels_is_the_same(monkeypatch):
    torch.manual_seed(0)
    model = VAN(arch=dict(embed_dims=[16, 32, 32, 48], depths=[1, 1, 2, 1], mlp_ratios=[2] * 4))
    model.init_weights()
    x = torch.randn(2, 3, 75, 101)
    results = []
    for loaded in (True, False):
        monkeypatch.setattr(ops, "loaded", loaded)
        model.zero_grad()
        outs = model(x)
        generator = torch.Generator().manual_seed(0)
        sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outs).backward()
        # The bias before a BatchNorm is left out: its gradient is zero but for rounding.
        grads = {
            name: p.grad.clone()
            for name, p in model.named_parameters()
            if "embed" not in name or "proj.bias" not in name
        }
        results.append([*(out.detach() for out in outs), *grads.values()])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ops.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match="install g"):
        ops.build()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="false failed"):
        ops.build()
    assert not list((tmp_path / "van_mm").iterdir())


def test_build_keeps_what_is_there(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("compiled again"))
    assert ops.build() == ops.library()
