"""Deformable convolutions equal plain loops in double precision, and the compiled operators."""

import mmcv_torchops
import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, deform_conv2d, modulated_deform_conv2d
from torch.nn.functional import conv2d
from torchops_testing import (
    DEVICES,
    assert_same,
    compute_with_gradients,
    needs_compiled,
    run_compiled,
    run_torchops,
    use_operators,
)

# stride, padding, dilation, groups, deform_groups
GEOMETRIES = [(1, 1, 1, 1, 1), (2, 1, 1, 2, 1), (1, 2, 2, 1, 2), ((1, 2), (2, 0), (1, 1), 2, 4)]


def make_inputs(geometry, batch=2, dtype=torch.float64, device="cpu"):
    """Return input, offset, mask, weight and bias. Offsets reach beyond the image."""
    stride, padding, dilation, groups, deform_groups = geometry
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 8, 9, 11, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 8 // groups, 3, 3, generator=generator, dtype=torch.float64)
    size = conv2d(x, weight, None, stride, padding, dilation, groups).shape[-2:]
    offset = 3 * torch.randn(batch, deform_groups * 18, *size, generator=generator, dtype=torch.float64)
    mask = torch.rand(batch, deform_groups * 9, *size, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    return [tensor.to(device, dtype) for tensor in (x, offset, mask, weight, bias)]


def sample(image, y, x):
    """Interpolate a channel bilinearly; positions outside of it are 0."""
    y0, x0 = int(y // 1), int(x // 1)
    value = 0.0
    for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= yy < image.shape[0] and 0 <= xx < image.shape[1]:
                value += wy * wx * image[yy, xx]
    return value


def convolve_by_loops(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """The definition: each tap reads at its own offset, is scaled by its mask, and enters the convolution."""
    (sy, sx), (py, px), (dy, dx) = ((v, v) if isinstance(v, int) else v for v in (stride, padding, dilation))
    n, channels = x.shape[:2]
    height, width = offset.shape[-2:]
    columns = x.new_zeros(n, channels, 9, height, width)
    for b in range(n):
        for c in range(channels):
            group = c // (channels // deform_groups)
            for tap in range(9):
                for i in range(height):
                    for j in range(width):
                        shift_y, shift_x = offset[b, (group * 9 + tap) * 2 :, i, j][:2].tolist()
                        y = i * sy - py + tap // 3 * dy + shift_y
                        z = j * sx - px + tap % 3 * dx + shift_x
                        columns[b, c, tap, i, j] = sample(x[b, c], y, z) * mask[b, group * 9 + tap, i, j]
    columns = columns.view(n, groups, -1, height * width)
    return torch.einsum("ngkp,gok->ngop", columns, weight.view(groups, 6 // groups, -1)).reshape(
        n, 6, height, width
    ) + bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_definition(geometry):
    x, offset, mask, weight, bias = make_inputs(geometry, batch=1)
    x, offset, mask = x[..., :5, :6], offset[..., :2, :2], mask[..., :2, :2]
    stride, padding, dilation, groups, deform_groups = geometry
    size = conv2d(x, weight, None, stride, padding, dilation, groups).shape[-2:]
    offset, mask = (torch.cat([torch.cat([t] * 4, -1)] * 4, -2)[..., : size[0], : size[1]] for t in (offset, mask))
    with use_operators(mmcv_torchops):
        out = modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)
        plain = deform_conv2d(x, offset, weight, *geometry)
    assert_same(out, convolve_by_loops(x, offset, mask, weight, bias, *geometry), 1e-10)
    assert_same(plain, convolve_by_loops(x, offset, torch.ones_like(mask), weight, bias * 0, *geometry), 1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("device", DEVICES)
def test_gradients(geometry, device):
    x, offset, mask, weight, bias = (t.requires_grad_() for t in make_inputs(geometry, device=device))
    with use_operators(mmcv_torchops):
        modulated = lambda *tensors: modulated_deform_conv2d(*tensors, *geometry)  # noqa: E731
        assert torch.autograd.gradcheck(modulated, (x, offset, mask, weight, bias), fast_mode=True)
        assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t, *geometry), (x, offset, weight), fast_mode=True)
        no_bias = lambda *tensors: modulated_deform_conv2d(*tensors, None, *geometry)  # noqa: E731
        assert torch.autograd.gradcheck(no_bias, (x, offset, mask, weight), fast_mode=True)


def test_gradient_of_the_weight_alone():
    """mmcv computes it in a call of its own, which adds to the buffer."""
    x, offset, _, weight, _ = make_inputs(GEOMETRIES[2])
    weight.requires_grad_()
    with use_operators(mmcv_torchops):
        assert torch.autograd.gradcheck(lambda w: deform_conv2d(x, offset, w, *GEOMETRIES[2]), weight, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_reduced_precision(dtype, device):
    inputs = make_inputs(GEOMETRIES[0], dtype=dtype, device=device)
    doubles = [x.double() for x in inputs]
    with use_operators(mmcv_torchops):
        out, grads = compute_with_gradients(lambda *t: modulated_deform_conv2d(*t, *GEOMETRIES[0]), *inputs)
        expected, references = compute_with_gradients(lambda *t: modulated_deform_conv2d(*t, *GEOMETRIES[0]), *doubles)
    for actual, reference in zip([out, *grads], [expected, *references], strict=True):
        assert actual.dtype == dtype
        assert (actual.double() - reference).norm() < 0.02 * reference.norm()


def test_batch_and_step():
    x, offset, _, weight, _ = make_inputs(GEOMETRIES[0], batch=3)
    with use_operators(mmcv_torchops):
        with pytest.raises((AssertionError, RuntimeError), match="divisible by im2col_step"):
            deform_conv2d(x, offset, weight, *GEOMETRIES[0], False, 2)
        out = deform_conv2d(x, offset, weight, *GEOMETRIES[0], False, 1)
        assert_same(out, deform_conv2d(x, offset, weight, *GEOMETRIES[0]))


@pytest.mark.parametrize("layer", [DeformConv2d, ModulatedDeformConv2d])
def test_autocast_and_compile(layer):
    """Mixed types under autocast, and the graph of torch.compile, give the same result."""
    module = layer(8, 6, 3, padding=1)
    x, offset, mask = make_inputs((1, 1, 1, 1, 1), dtype=torch.float32)[:3]
    extra = (offset,) if layer is DeformConv2d else (offset, mask)
    with use_operators(mmcv_torchops):
        expected = module(x, *extra)
        with torch.autocast("cpu", torch.bfloat16):
            out = module(x.bfloat16(), *(t.bfloat16() for t in extra))
            out.float().sum().backward()
        assert (out.float() - expected).norm() < 0.03 * expected.norm()
        compiled = torch.compile(module, backend="aot_eager")
        assert_same(compiled(x, *extra), expected)


@needs_compiled
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_compiled(geometry, dtype, batch):
    inputs = make_inputs(geometry, batch, dtype)
    x, offset, _, weight, _ = inputs
    atol = 1e-5 if dtype == torch.float64 else 1e-4  # sums of hundreds of float32 products of up to 10
    for function, tensors in (
        (lambda *t: modulated_deform_conv2d(*t, *geometry), inputs),
        (lambda *t: modulated_deform_conv2d(*t, None, *geometry), inputs[:4]),
        (lambda *t: deform_conv2d(*t, *geometry), (x, offset, weight)),
    ):
        expected = run_compiled(compute_with_gradients, function, *tensors)
        assert_same(run_torchops(compute_with_gradients, function, *tensors), expected, atol)


@needs_compiled
def test_channels_last_is_compiled_alike():
    inputs = make_inputs(GEOMETRIES[0], dtype=torch.float64)
    expected = run_compiled(modulated_deform_conv2d, *inputs, *GEOMETRIES[0])
    last = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    assert_same(run_torchops(modulated_deform_conv2d, *last, *GEOMETRIES[0]), expected)
