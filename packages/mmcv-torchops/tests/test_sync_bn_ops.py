"""Synchronised batch normalisation, against PyTorch's on the whole batch. mmcv compiles it for accelerators only."""

from collections.abc import Iterator
from pathlib import Path

import mmcv_torchops
import pytest
import torch
import torch.distributed as dist
from mmcv.ops import SyncBatchNorm
from torch import nn
from torchops_testing import DEVICES, assert_same, compute_with_gradients, run_torchops, use_operators

CHANNELS = 5


@pytest.fixture
def single_process(tmp_path: Path) -> Iterator[None]:
    """Initialise the process group that mmcv's module asks for."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_features(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(shape[1])[:, None, None]


def make_layers(**kwargs) -> tuple[nn.BatchNorm2d, SyncBatchNorm]:
    expected = nn.BatchNorm2d(CHANNELS, **{key: value for key, value in kwargs.items() if key != "stats_mode"})
    nn.init.uniform_(expected.weight)
    nn.init.uniform_(expected.bias)
    layer = SyncBatchNorm(CHANNELS, **kwargs)
    layer.load_state_dict(expected.state_dict())
    return expected, layer


def assert_same_training(layer: nn.Module, expected: nn.Module, features: torch.Tensor) -> None:
    """Compare outputs, all gradients and the running statistics of two training steps, then the evaluation."""
    for batch in features, features.flip(0) + 1:
        assert_same(
            run_torchops(compute_with_gradients, layer, batch), compute_with_gradients(expected, batch), 1e-4, 1e-4
        )
    for parameter, other in zip(layer.parameters(), expected.parameters(), strict=True):
        assert_same(parameter.grad, other.grad, 1e-4, 1e-4)
    assert_same(list(layer.buffers()), list(expected.buffers()))
    assert_same(run_torchops(layer.eval(), features), expected.eval()(features), 1e-4, 1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"stats_mode": "N"}, {"momentum": None}, {"eps": 0.1, "momentum": 0.3}, {"track_running_stats": False}],
)
@pytest.mark.parametrize("shape", [(4, CHANNELS, 6, 7), (3, CHANNELS, 1, 1)])
def test_one_process_trains_as_batch_norm(single_process, shape, kwargs, device):
    expected, layer = make_layers(**kwargs)
    assert_same_training(layer.to(device), expected.to(device), make_features(*shape).to(device))


def test_memory_formats_make_no_difference(single_process):
    expected, layer = make_layers()
    features = make_features(4, CHANNELS, 6, 7).to(memory_format=torch.channels_last)
    assert run_torchops(layer, features).is_contiguous(memory_format=torch.channels_last)
    expected(features)
    assert_same_training(layer, expected, features)


def test_half_features_are_normalised_in_float32(single_process):
    expected, layer = make_layers()
    features = make_features(4, CHANNELS, 6, 7).half()
    output, gradients = run_torchops(compute_with_gradients, layer, features)
    assert output.dtype == gradients[0].dtype == torch.float16
    expected_output, expected_gradients = compute_with_gradients(expected, features.float())
    assert_same(output.float(), expected_output, 1e-2, 1e-2)
    assert_same(gradients[0].float(), expected_gradients[0], 1e-2, 1e-2)
    assert_same(list(layer.buffers()), list(expected.buffers()))


def test_a_layer_without_weights_normalises(single_process):
    layer = SyncBatchNorm(CHANNELS, affine=False)
    features = make_features(4, CHANNELS, 6, 7)
    assert_same(run_torchops(layer, features), nn.BatchNorm2d(CHANNELS, affine=False)(features))


def test_an_empty_batch_leaves_the_statistics(single_process):
    _, layer = make_layers()
    output, gradients = run_torchops(compute_with_gradients, layer, torch.zeros(0, CHANNELS, 6, 7))
    assert output.shape == gradients[0].shape == (0, CHANNELS, 6, 7)
    assert_same(layer.running_var, torch.ones(CHANNELS))
    assert not layer.running_mean.any()


def test_the_layer_trains_in_compiled_functions_and_under_autocast(single_process):
    expected, layer = make_layers()
    compiled = torch.compile(layer, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_training(compiled, expected, make_features(4, CHANNELS, 6, 7))


def run_rank(rank: int, store: str) -> None:
    """Train on one half of a batch, and compare with a step of batch normalisation on the whole one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with use_operators(mmcv_torchops):
        check_even_batches(rank)
        check_uneven_batches(rank, 3)
        check_uneven_batches(rank, 4)
    dist.destroy_process_group()


def check_even_batches(rank: int) -> None:
    torch.manual_seed(0)
    expected, layer = make_layers()
    features = make_features(4, CHANNELS, 6, 7)
    output_gradient = torch.rand(features.shape)
    part = slice(rank * 2, rank * 2 + 2)
    inputs, whole = features[part].clone().requires_grad_(), features.clone().requires_grad_()
    output, expected_output = layer(inputs), expected(whole)
    output.backward(output_gradient[part])
    expected_output.backward(output_gradient)
    assert_same(output, expected_output[part])
    assert_same(inputs.grad, whole.grad[part])
    # Gradients of parameters are the mean over the processes, as DistributedDataParallel makes them.
    for parameter, other in zip(layer.parameters(), expected.parameters(), strict=True):
        assert_same(parameter.grad, other.grad / 2)
    assert_same(list(layer.buffers()), list(expected.buffers()))


def check_uneven_batches(rank: int, first: int) -> None:
    torch.manual_seed(0)
    expected, layer = make_layers(stats_mode="N")
    features = make_features(4, CHANNELS, 6, 7)
    part = slice(0, first) if rank == 0 else slice(first, 4)
    assert_same(layer(features[part]), expected(features)[part])
    assert_same(layer.running_mean, expected.running_mean)


def test_two_processes_train_as_batch_norm_on_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(run_rank, (str(tmp_path / "store"),), nprocs=2)
