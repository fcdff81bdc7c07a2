"""The compiled kernels equal PyTorch's convolutions, gradients included."""

import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F

from van_mm import VAN
from van_mm.ops import library
from van_mm.ops.library import build_library, get_library_path, load_library

OPS = torch.ops.van_mm


@pytest.fixture(autouse=True)
def compiled():
    if not load_library():
        try:
            build_library()
        except RuntimeError as error:
            pytest.skip(str(error))
        assert load_library()


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
    grad_out = torch.randn(2, channels, height, width)
    out = torch.ops.van_mm.dwconv(x, weight, bias, dilation)
    grads = torch.autograd.grad(out, (x, weight, bias), grad_out)
    double = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    expected = stock(*double, dilation)
    assert (out - expected).norm() / expected.norm() < 1e-6
    for grad, reference in zip(grads, torch.autograd.grad(expected, double, grad_out.double()), strict=True):
        assert grad.shape == reference.shape
        assert (grad - reference).norm() / reference.norm() < 1e-5


def double(*tensors):
    return [tensor.double() for tensor in tensors]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (61, 43), (7, 7), (2, 300)])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(16, 48), (64, 32), (38, 160)])
def test_pointwise(dtype, tolerance, size, in_channels, out_channels):
    """A 1x1 convolution with every fused operation, for pixel and channel counts that are not multiples of a tile."""
    torch.manual_seed(0)
    x, (times, before, plus) = torch.randn(2, in_channels, *size), torch.randn(3, 2, out_channels, *size)
    weight = torch.randn(out_channels, in_channels, 1, 1) / in_channels**0.5
    bias, scale, slope = torch.randn(3, out_channels)
    in_scale, out_scale = torch.rand(in_channels) + 0.5, torch.rand(out_channels) + 0.5
    x, times, before, plus = (tensor.to(dtype) for tensor in (x, times, before, plus))
    packed = OPS.pack(weight, in_scale, out_scale, dtype == torch.bfloat16)
    product = F.conv2d(
        x.double(), weight.double() * in_scale.view(1, -1, 1, 1) * out_scale.view(-1, 1, 1, 1), bias.double()
    )
    chain = F.gelu(product) * scale.double().view(-1, 1, 1) * times.double()
    active = before.double().requires_grad_()
    (derivative,) = torch.autograd.grad(F.gelu(active).sum(), active)
    expected = chain * derivative + plus.double() * slope.double().view(-1, 1, 1)
    out = OPS.pointwise(x, packed, bias, gelu=True, scale=scale, times=times, before=before, plus=plus, slope=slope)
    assert out.dtype == dtype and (out - expected).norm() <= tolerance * expected.norm()
    out = OPS.pointwise(x, packed, bias, plus=plus)
    assert (out - (product + plus.double())).norm() <= tolerance * product.norm()
    if dtype == torch.float32:  # a plain matrix instead of packed panels
        matrix = (weight * in_scale.view(1, -1, 1, 1) * out_scale.view(-1, 1, 1, 1)).flatten(1).t().contiguous()
        assert (OPS.pointwise(x, matrix, bias) - product).norm() <= tolerance * product.norm()
    for wrong in (packed[:-1], packed.to(torch.float64)):
        with pytest.raises(RuntimeError, match="not packed"):
            OPS.pointwise(x, wrong, bias)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (70, 9), (56, 56), (33, 200)])
def test_feed_forward(dtype, tolerance, size):
    torch.manual_seed(0)
    x, fc1, dw, fc2 = (
        torch.randn(2, 16, *size),
        torch.randn(128, 16, 1, 1),
        torch.randn(128, 1, 3, 3),
        torch.randn(16, 128, 1, 1),
    )
    b1, b, b2 = torch.randn(128), torch.randn(128), torch.randn(16)
    x, fc1, fc2 = (tensor.to(dtype) for tensor in (x, fc1 / 4, fc2 / 11))
    hidden = F.conv2d(*double(x, fc1, b1))
    hidden = F.gelu(F.conv2d(hidden, *double(dw, b), padding=1, groups=128))
    expected = x.double() + F.conv2d(hidden, *double(fc2, b2))
    half = dtype == torch.bfloat16
    out = OPS.feed_forward(x, OPS.pack(fc1, half=half), b1, dw, b, OPS.pack(fc2, half=half), b2)
    assert (out - expected).norm() <= tolerance * expected.norm()


def test_gelu():
    x = torch.linspace(-12, 12, 160000).view(1, 16, 100, 100)
    exact = x.double().requires_grad_()
    value = F.gelu(exact)
    (slope,) = torch.autograd.grad(value.sum(), exact)
    assert ((OPS.gelu(x) - value).abs() / exact.abs().clamp(1)).max() < 2e-7
    assert (OPS.gelu_backward(torch.full_like(x, 2), x) - 2 * slope).abs().max() < 1e-6
    assert (OPS.dwconv(x, torch.ones(16, 1, 1, 1), None, 1, gelu=True) - value).abs().max() < 3e-6


def test_bfloat16_depthwise():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 20, 30).bfloat16().requires_grad_()
    weight = torch.randn(32, 1, 7, 7, requires_grad=True)
    grad_out = torch.randn(2, 32, 20, 30).bfloat16()
    out = OPS.dwconv(x, weight, None, 3)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    expected = stock(*exact, None, 3)
    assert out.dtype == torch.bfloat16 and (out - expected).norm() < 5e-3 * expected.norm()
    grads = torch.autograd.grad(out, (x, weight), grad_out)
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32]
    for grad, reference in zip(grads, torch.autograd.grad(expected, exact, grad_out.double()), strict=True):
        assert (grad - reference).norm() < 5e-3 * reference.norm()
    with pytest.raises(NotImplementedError, match="gelu"):
        OPS.dwconv(x, weight, None, 3, gelu=True)


def test_memory_pool():
    """The memory of a large tensor is reused after the tensor and its views are deleted, and not before."""
    code = """
        import torch
        from van_mm.ops.library import load_library
        load_library()
        gelu = torch.ops.van_mm.gelu
        x = torch.ones(1, 16, 128, 128)
        first, second = gelu(x), gelu(2 * x)
        addresses = {first.data_ptr(), second.data_ptr()}
        assert len(addresses) == 2 and first.mean() < 1 < second.mean()
        view = first[0, 0]
        del first, second
        third = gelu(3 * x)
        assert third.data_ptr() in addresses and third.data_ptr() != view.data_ptr()
        big = gelu(torch.ones(1, 16, 256, 256))
        assert view.mean() < 1 and third.mean() > 2 and big.mean() < 1
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)  # a process whose pool is empty


def test_without_bias_and_with_frozen_inputs():
    x, weight = torch.randn(1, 16, 8, 8), torch.randn(16, 1, 3, 3, requires_grad=True)
    torch.testing.assert_close(torch.ops.van_mm.dwconv(x, weight, None, 1), stock(x, weight, None, 1))
    torch.ops.van_mm.dwconv(x, weight, None, 1).sum().backward()
    assert weight.grad is not None and x.grad is None
    x.requires_grad_()
    torch.ops.van_mm.dwconv(x, weight.detach(), None, 1).sum().backward()
    assert x.grad is not None


def test_registration():
    """The registered shapes, strides and gradients agree with the kernels (torch.library.opcheck)."""
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
def test_unsupported_inputs_raise(x, kernel, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.van_mm.dwconv(x, torch.zeros(x.shape[1], 1, kernel, kernel, dtype=x.dtype), None, 1)


def test_van_without_kernels_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    model = VAN(arch=dict(embed_dims=[16, 32, 32, 48], depths=[1, 1, 2, 1], mlp_ratios=[2] * 4))
    model.init_weights()
    x = torch.randn(2, 3, 75, 101)
    results = []
    for loaded in (True, False):
        monkeypatch.setattr(library, "is_loaded", loaded)
        model.zero_grad()
        outs = model(x)
        generator = torch.Generator().manual_seed(0)
        sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outs).backward()
        # The bias before a BatchNorm is skipped because its gradient is zero except for rounding errors.
        grads = {
            name: p.grad.clone()
            for name, p in model.named_parameters()
            if "embed" not in name or "proj.bias" not in name
        }
        results.append([*(out.detach() for out in outs), *grads.values()])
    for actual, plain in zip(*results, strict=True):
        assert (actual - plain).norm() < 1e-5 * plain.norm()


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match="install g"):
        build_library()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="false failed"):
        build_library()
    assert not list((tmp_path / "van_mm").iterdir())


def test_build_keeps_an_existing_library(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("compiled again"))
    assert build_library() == get_library_path()


def test_kernels_can_be_disabled(monkeypatch):
    monkeypatch.setenv("VAN_MM_KERNELS", "0")
    assert not load_library()
    loaded = "van_mm.ops.library.is_loaded or hasattr(torch.ops.van_mm, 'dwconv')"
    code = f"import van_mm.models, torch; assert not ({loaded})"
    subprocess.run([sys.executable, "-c", code], check=True)
