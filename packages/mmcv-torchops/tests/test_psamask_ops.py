"""The masks of point-wise spatial attention, against loops in double precision and against a compiled mmcv."""

import mmcv_torchops
import pytest
import torch
from mmcv.ops import PSAMask
from torch import Tensor
from torchops_testing import (
    DEVICES,
    assert_same,
    compute_with_gradients,
    needs_compiled,
    run_compiled,
    run_torchops,
)

HEIGHT, WIDTH = 4, 5
types = pytest.mark.parametrize("psa_type", ["collect", "distribute"])
sizes = pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 4), (7, 9), (11, 3)])


def make_input(size: tuple[int, int] = (3, 5), dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, size[0] * size[1], HEIGHT, WIDTH, generator=generator, dtype=torch.float64).to(dtype)


def place(masks: Tensor, psa_type: str, size: tuple[int, int]) -> Tensor:
    """Return the attention, mask value by mask value."""
    output = masks.new_zeros(len(masks), HEIGHT * WIDTH, HEIGHT, WIDTH)
    for channel in range(size[0] * size[1]):
        down, right = channel // size[1] - (size[0] - 1) // 2, channel % size[1] - (size[1] - 1) // 2
        for row in range(max(0, -down), min(HEIGHT, HEIGHT - down)):
            for column in range(max(0, -right), min(WIDTH, WIDTH - right)):
                y, x = row + down, column + right
                if psa_type == "collect":
                    output[:, y * WIDTH + x, row, column] = masks[:, channel, row, column]
                else:
                    output[:, row * WIDTH + column, y, x] = masks[:, channel, row, column]
    return output


@pytest.mark.parametrize("device", DEVICES)
@types
@sizes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equal_to_the_reference(dtype, size, psa_type, device):
    masks = make_input(size, dtype)
    expected = compute_with_gradients(lambda x: place(x, psa_type, size), masks)
    output, (gradient,) = run_torchops(compute_with_gradients, PSAMask(psa_type, size), masks.to(device))
    assert output.dtype == dtype
    assert torch.equal(output.cpu(), expected[0]) and torch.equal(gradient.cpu(), expected[1][0])


@types
def test_gradients_are_derivatives(psa_type):
    assert run_torchops(torch.autograd.gradcheck, PSAMask(psa_type, (3, 5)), make_input().requires_grad_())


@pytest.mark.parametrize("psa_type", [0, 1])
def test_positions_beyond_the_masks_are_left_as_they_are(psa_type):
    output = torch.full((2, HEIGHT * WIDTH, HEIGHT, WIDTH), 7.0)
    mmcv_torchops.psamask_forward(
        torch.zeros(2, 3, HEIGHT, WIDTH), output, psa_type, 2, HEIGHT, WIDTH, 1, 3, half_h_mask=0, half_w_mask=1
    )
    assert (output == 0).sum() == 2 * HEIGHT * (3 * WIDTH - 2)
    assert (output == 7).sum() == output.numel() - 2 * HEIGHT * (3 * WIDTH - 2)
    gradient = torch.full((2, 3, HEIGHT, WIDTH), 7.0)
    mmcv_torchops.psamask_backward(
        torch.zeros_like(output), gradient, psa_type, 2, HEIGHT, WIDTH, 1, 3, half_h_mask=0, half_w_mask=1
    )
    assert (gradient == 7).sum() == 2 * HEIGHT * 2
    assert (gradient[:, 0, :, 0] == 7).all() and (gradient[:, 2, :, -1] == 7).all()


@types
def test_no_images(psa_type):
    output, (gradient,) = run_torchops(compute_with_gradients, PSAMask(psa_type, (3, 5)), make_input()[:0])
    assert output.shape == (0, HEIGHT * WIDTH, HEIGHT, WIDTH)
    assert gradient.shape == (0, 15, HEIGHT, WIDTH)


@types
def test_autocast(psa_type):
    masks = make_input(dtype=torch.float32)
    expected = run_torchops(compute_with_gradients, PSAMask(psa_type, (3, 5)), masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_torchops(compute_with_gradients, PSAMask(psa_type, (3, 5)), masks), expected)


@types
def test_compile(psa_type):
    masks = make_input()
    expected = run_torchops(compute_with_gradients, PSAMask(psa_type, (3, 5)), masks)
    torch.compiler.reset()
    compiled = torch.compile(PSAMask(psa_type, (3, 5)), backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, masks), expected)


@types
def test_memory_formats(psa_type):
    masks = make_input()
    expected = run_torchops(compute_with_gradients, PSAMask(psa_type, (3, 5)), masks)
    strided = masks.to(memory_format=torch.channels_last)
    assert_same(run_torchops(compute_with_gradients, PSAMask(psa_type, (3, 5)), strided), expected)


@needs_compiled
@types
@sizes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_compiled(dtype, size, psa_type):
    masks = make_input(size, dtype)
    expected = run_compiled(compute_with_gradients, PSAMask(psa_type, size), masks)
    assert_same(run_torchops(compute_with_gradients, PSAMask(psa_type, size), masks), expected, atol=0, rtol=0)
