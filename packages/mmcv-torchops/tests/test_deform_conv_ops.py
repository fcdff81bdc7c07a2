"""Deformable convolution, plain and modulated, against torchvision in double precision and against a compiled mmcv."""

import math

import mmcv_torchops
import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmcv.ops import DeformConv2d, deform_conv2d, modulated_deform_conv2d
from torch import Tensor
from torchops_testing import (
    DEVICES,
    assert_same,
    compute_with_gradients,
    needs_compiled,
    run_compiled,
    run_torchops,
)

KERNEL = (3, 2)
VARIANTS = {
    "default": {},
    "padding": {"padding": 1},
    "geometry": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    "groups": {"padding": 1, "groups": 2},
    "offset groups": {"padding": 1, "deform_groups": 4},
    "fewer offset groups": {"padding": (2, 1), "groups": 4, "deform_groups": 2},
    "depthwise": {"padding": (0, 1), "groups": 8, "deform_groups": 8},
}
variants = pytest.mark.parametrize("variant", VARIANTS)
families = pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])


def make_inputs(variant: str = "padding", dtype: torch.dtype = torch.float64, spread: float = 1.5) -> list[Tensor]:
    """Return an input, an offset, a mask, a weight and a bias."""
    options = VARIANTS[variant]
    generator = torch.Generator().manual_seed(0)
    groups, offset_groups = options.get("groups", 1), options.get("deform_groups", 1)
    x, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(4, 8, 6, 7), (16, 8 // groups, *KERNEL)]
    )
    geometry = {key: value for key, value in options.items() if key != "deform_groups"}
    size = F.conv2d(x, weight, **geometry).shape[2:]
    taps = offset_groups * KERNEL[0] * KERNEL[1]
    offset = torch.randn(4, 2 * taps, *size, generator=generator, dtype=torch.float64) * spread
    mask = torch.rand(4, taps, *size, generator=generator, dtype=torch.float64)
    bias = torch.randn(16, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (x, offset, mask, weight, bias)]


def make_call(modulated: bool, variant: str = "padding", im2col_step: int = 2):
    """Return the operator as a function of the tensors of ``make_inputs``."""
    options = VARIANTS[variant]
    keys = ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1), ("deform_groups", 1)
    arguments = [options.get(*key) for key in keys]
    if modulated:
        return lambda x, offset, mask, weight, bias: modulated_deform_conv2d(x, offset, mask, weight, bias, *arguments)
    return lambda x, offset, mask, weight, bias: deform_conv2d(x, offset, weight, *arguments, False, im2col_step)


def make_reference(modulated: bool, variant: str = "padding"):
    options = VARIANTS[variant]
    geometry = {key: options[key] for key in ("stride", "padding", "dilation") if key in options}

    def reference(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        extra = {"mask": mask, "bias": bias} if modulated else {}
        return torchvision.ops.deform_conv2d(x, offset, weight, **extra, **geometry)

    return reference


def get_options(**changes: int) -> dict:
    """Return the arguments of the plain operators for the variant "default"."""
    options = {"kW": 2, "kH": 3, "dW": 1, "dH": 1, "padW": 0, "padH": 0, "dilationW": 1, "dilationH": 1}
    return options | {"group": 1, "deformable_group": 1, "im2col_step": 2} | changes


@pytest.mark.parametrize("device", DEVICES)
@variants
@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_torchvision(dtype, modulated, variant, device):
    inputs = make_inputs(variant, dtype)
    expected = compute_with_gradients(make_reference(modulated, variant), *(x.double() for x in inputs))
    call = make_call(modulated, variant)
    output, gradients = run_torchops(compute_with_gradients, call, *(x.to(device) for x in inputs))
    assert output.dtype == dtype
    gradients = [x if x is None else x.double().cpu() for x in gradients]
    assert_same((output.double().cpu(), gradients), expected, atol=1e-5, rtol=1e-5)


@families
def test_gradients_are_derivatives(modulated):
    inputs = [x[:1] if len(x) == 4 else x for x in make_inputs("fewer offset groups")]
    used = inputs if modulated else [inputs[0], inputs[1], inputs[3]]
    for tensor in used:
        tensor.requires_grad_()
    call = make_call(modulated, "fewer offset groups")
    assert run_torchops(
        torch.autograd.gradcheck,
        lambda *tensors: call(*tensors) if modulated else call(*tensors[:2], None, tensors[2], None),
        used,
        fast_mode=True,
    )


@families
def test_no_offset_is_a_convolution(modulated):
    x, offset, mask, weight, bias = make_inputs(spread=0)
    mask = torch.ones_like(mask)
    expected = compute_with_gradients(
        lambda x, weight, bias: F.conv2d(x, weight, bias if modulated else None, padding=1), x, weight, bias
    )
    call = make_call(modulated)
    actual = run_torchops(
        compute_with_gradients, lambda x, weight, bias: call(x, offset, mask, weight, bias), x, weight, bias
    )
    assert_same(actual, expected)


@families
def test_offsets_of_samples_a_pixel_off_the_image_have_no_gradient(modulated):
    inputs = make_inputs(spread=0)
    _, gradients = run_torchops(compute_with_gradients, make_call(modulated), *inputs)
    gradient = gradients[1].unflatten(1, (*KERNEL, 2))
    above, left, inside = gradient[:, 0, :, :, 0], gradient[:, :, 0, :, :, 0], gradient[:, 1, 1, :, 1:-1, 1:-1]
    assert not above.any() and not left.any()
    assert inside.all()


@families
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_samples_without_a_position_are_zero(modulated, value):
    x, offset, *others = make_inputs(dtype=torch.float32)
    broken, far = offset.clone(), offset.clone()
    broken[:, 3], far[:, 3] = value, 1000
    actual, expected = (
        run_torchops(compute_with_gradients, make_call(modulated), x, moves, *others) for moves in (broken, far)
    )
    assert expected[0].isfinite().all()
    assert_same(actual, expected)


def test_no_images():
    x, offset, mask, weight, bias = (tensor[:0] if len(tensor) == 4 else tensor for tensor in make_inputs("default"))
    grad = output = x.new_empty(0, 16, 4, 6)
    gradients = [torch.zeros_like(tensor) for tensor in (x, weight, bias, offset, mask)]
    mmcv_torchops.deform_conv_forward(x, weight, offset, output, x, x, **get_options())
    mmcv_torchops.deform_conv_backward_input(x, offset, grad, x, offset, weight, x, **get_options())
    mmcv_torchops.deform_conv_backward_parameters(x, offset, grad, gradients[1], x, x, **get_options(), scale=1)
    options = 3, 2, 1, 1, 0, 0, 1, 1, 1, 1, True
    mmcv_torchops.modulated_deform_conv_forward(x, weight, bias, x, offset, mask, output, x, *options)
    mmcv_torchops.modulated_deform_conv_backward(x, weight, bias, x, offset, mask, x, *gradients, grad, *options)
    assert not any(gradient.any() for gradient in gradients)


def test_the_step_changes_nothing():
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, make_call(False), *inputs)
    for step in (1, 4, 32):
        assert_same(run_torchops(compute_with_gradients, make_call(False, im2col_step=step), *inputs), expected)


def test_the_step_must_divide_the_batch():
    x, offset, _, weight, _ = make_inputs("default")
    output = x.new_empty(4, 16, 4, 6)
    with pytest.raises(RuntimeError, match="multiple of im2col_step"):
        mmcv_torchops.deform_conv_forward(x, weight, offset, output, x, x, **get_options(im2col_step=3))


def test_plain_gradients_accumulate():
    x, offset, mask, weight, bias = make_inputs("default")
    _, (grad_x, grad_offset, _, grad_weight, _) = run_torchops(
        compute_with_gradients, make_call(False, "default"), x, offset, mask, weight, bias
    )
    grad = torch.rand(4, 16, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actual = [torch.ones_like(tensor) for tensor in (x, offset, weight)]
    mmcv_torchops.deform_conv_backward_input(x, offset, grad, actual[0], actual[1], weight, x, **get_options())
    mmcv_torchops.deform_conv_backward_parameters(x, offset, grad, actual[2], x, x, **get_options(), scale=0.5)
    assert_same(actual, [1 + grad_x, grad_offset, 1 + 0.5 * grad_weight])


def test_modulated_gradients_accumulate():
    x, offset, mask, weight, bias = make_inputs("default")
    _, expected = run_torchops(compute_with_gradients, make_call(True, "default"), x, offset, mask, weight, bias)
    grad = torch.rand(4, 16, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actual = [torch.ones_like(tensor) for tensor in (x, offset, mask, weight, bias)]
    grad_x, grad_offset, grad_mask, grad_weight, grad_bias = actual
    mmcv_torchops.modulated_deform_conv_backward(
        *(x, weight, bias, x, offset, mask, x, grad_x, grad_weight, grad_bias, grad_offset, grad_mask, grad),
        *(3, 2, 1, 1, 0, 0, 1, 1, 1, 1, True),
    )
    accumulated = torch.tensor([1, 0, 0, 1, 1])
    assert_same(actual, [before + after for before, after in zip(accumulated, expected, strict=True)])


@families
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(modulated, dtype):
    inputs = make_inputs("fewer offset groups", dtype)
    call = make_call(modulated, "fewer offset groups")
    expected, expected_gradients = run_torchops(compute_with_gradients, call, *(x.float() for x in inputs))
    output, gradients = run_torchops(compute_with_gradients, call, *inputs)
    assert output.dtype == gradients[0].dtype == gradients[3].dtype == dtype
    assert_same(output.float(), expected, atol=0.02, rtol=0.02)
    for actual, exact in zip(gradients, expected_gradients, strict=True):
        if exact is not None:
            assert_same(actual.float(), exact, atol=0.02 * exact.abs().max().item(), rtol=0.02)


@families
def test_autocast(modulated):
    inputs = make_inputs(dtype=torch.float32)
    expected = run_torchops(compute_with_gradients, make_call(modulated), *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(compute_with_gradients, make_call(modulated), *inputs), expected)
        # mmcv computes in the type of the offset, which is that of a convolution under autocast.
        inputs[1] = inputs[1].bfloat16()
        output, gradients = run_torchops(compute_with_gradients, make_call(modulated), *inputs)
    assert output.dtype == torch.bfloat16
    assert gradients[0].dtype == gradients[3].dtype == torch.float32


@families
def test_compile(modulated):
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, make_call(modulated), *inputs)
    torch.compiler.reset()
    compiled = torch.compile(make_call(modulated), backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, *inputs), expected)


@families
def test_memory_formats(modulated):
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, make_call(modulated), *inputs)
    strided = [x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    assert_same(run_torchops(compute_with_gradients, make_call(modulated), *strided), expected)


@families
def test_deterministic_algorithms(modulated):
    inputs = make_inputs()
    expected = run_torchops(compute_with_gradients, make_call(modulated), *inputs)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(run_torchops(compute_with_gradients, make_call(modulated), *inputs), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@needs_compiled
@variants
@families
@pytest.mark.parametrize("spread", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_compiled(dtype, spread, modulated, variant):
    inputs = make_inputs(variant, dtype, spread)
    call = make_call(modulated, variant)
    expected = run_compiled(compute_with_gradients, call, *inputs)
    # Sums of some hundred float32 numbers of up to 10 are accurate to about 1e-5.
    assert_same(run_torchops(compute_with_gradients, call, *inputs), expected, atol=3e-5)


@needs_compiled
def test_small_images_equal_compiled():
    torch.manual_seed(0)
    layer = DeformConv2d(4, 6, 3, padding=1).requires_grad_(False)
    x, offset = torch.randn(2, 4, 2, 2), torch.randn(2, 18, 2, 2)
    expected = run_compiled(compute_with_gradients, layer, x, offset)
    assert_same(run_torchops(compute_with_gradients, layer, x, offset), expected)
