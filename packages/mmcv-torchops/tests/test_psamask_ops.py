"""PSANet's masks equal a loop over their definition, and the compiled operator."""

import mmcv_torchops
import pytest
import torch
from mmcv.ops import PSAMask
from torchops_testing import (
    DEVICES,
    assert_same,
    compute_with_gradients,
    needs_compiled,
    run_compiled,
    run_torchops,
    use_operators,
)

CASES = [((4, 5), (7, 9)), ((4, 5), (3, 5)), ((6, 3), (5, 11)), ((1, 1), (1, 1)), ((4, 4), (4, 6))]


def make_input(size, mask_size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, mask_size[0] * mask_size[1], *size, generator=generator, dtype=torch.float64).to(dtype)


def attend_by_loops(x, psa_type, mask_size):
    """The definition: the weight between two positions is the source's mask at their distance."""
    n, _, height, width = x.shape
    (rows, columns), out = mask_size, x.new_zeros(len(x), height * width, height, width)
    for i in range(height * width):
        for j in range(height * width):
            target, source = divmod(i, width), divmod(j, width)
            row = target[0] - source[0] + (rows - 1) // 2
            column = target[1] - source[1] + (columns - 1) // 2
            if 0 <= row < rows and 0 <= column < columns:
                weight = x[:, row * columns + column, source[0], source[1]]
                if psa_type == "collect":
                    out[:, i, source[0], source[1]] = weight
                else:
                    out[:, j, target[0], target[1]] = weight
    return out


@pytest.mark.parametrize("psa_type", ["collect", "distribute"])
@pytest.mark.parametrize("size, mask_size", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_definition(psa_type, size, mask_size, device):
    x, layer = make_input(size, mask_size).to(device), PSAMask(psa_type, mask_size)
    expected = compute_with_gradients(lambda x: attend_by_loops(x, psa_type, mask_size), x)
    with use_operators(mmcv_torchops):
        assert_same(compute_with_gradients(layer, x), expected, 0, 0)
        assert layer(x.bfloat16()).dtype == torch.bfloat16


@needs_compiled
@pytest.mark.parametrize("psa_type", ["collect", "distribute"])
@pytest.mark.parametrize("size, mask_size", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled(psa_type, size, mask_size, dtype):
    x, layer = make_input(size, mask_size, dtype), PSAMask(psa_type, mask_size)
    assert_same(run_torchops(compute_with_gradients, layer, x), run_compiled(compute_with_gradients, layer, x), 0, 0)
