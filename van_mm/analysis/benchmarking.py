"""Measure time and memory of models. The model and its reference run alternately in the same process."""

import time
from collections.abc import Callable
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from van_mm.analysis.complexity import forward_all_parts


def time_alternately(
    functions: dict[str, Callable[[], object]], rounds: int = 7, warmup: int = 2
) -> dict[str, list[float]]:
    """Time functions in alternation, so that other load on the machine affects all of them.

    Args:
        functions (dict[str, Callable]): Functions by name. Each is called once per round.
        rounds (int): Number of timed rounds. Defaults to 7.
        warmup (int): Number of rounds before them that are not timed. Defaults to 2.

    Returns:
        dict[str, list[float]]: Seconds of every timed call, by name.
    """
    times = {name: [] for name in functions}
    for i in range(warmup + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def compute_speedup(reference: list[float], candidate: list[float]) -> tuple[float, float, float]:
    """Return how many times faster a candidate is than a reference.

    Args:
        reference (list[float]): Seconds of the reference, from :func:`time_alternately`.
        candidate (list[float]): Seconds of the candidate in the same rounds.

    Returns:
        tuple[float, float, float]: Median, first quartile and third quartile of the ratios of the rounds.
    """
    ratios = [a / b for a, b in zip(reference, candidate, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return median(ratios), low, high


def collect_grad_tensors(outputs) -> list[Tensor]:
    """Return every tensor that requires a gradient from nested lists, tuples and dicts."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.requires_grad else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in collect_grad_tensors(output)]
    return []


class WholeModel(nn.Module):
    """A module that runs every part of a model that inference uses, see :func:`forward_all_parts`.

    Args:
        model (nn.Module): A model of one of the four codebases.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        forward_all_parts(self.model, images)


def make_inference_call(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that runs the model in eval mode.

    Args:
        model (nn.Module): The model. It is cast to ``dtype`` in place.
        images (Tensor): Images (N, 3, H, W).
        dtype (torch.dtype): Type of the weights and the images.
    """
    model.eval()  # mmpretrain's VAN returns None from eval(), so the calls cannot be chained
    model = model.to(dtype)
    images = images.to(dtype)

    def call():
        with torch.inference_mode():
            return model(images)

    return call


def make_training_call(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that runs a forward and a backward pass in training mode.

    Args:
        model (nn.Module): The model. Its weights keep their type.
        images (Tensor): Images (N, 3, H, W).
        dtype (torch.dtype): With bfloat16, the forward pass runs under autocast.
    """
    model.train()

    def call():
        model.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = collect_grad_tensors(model(images))
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    return call


def make_matmul_call(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that computes only the dense convolutions of a model, as plain matrix products.

    Its time is a lower bound for the model on this machine: inputs are laid out as matrices beforehand, outputs are
    written to the same memory, and no other operator runs.

    Args:
        model (nn.Module): The model. It runs once to record the sizes of its convolutions.
        images (Tensor): Images (N, 3, H, W).
        dtype (torch.dtype): Type of the matrices.
    """
    shapes = []

    def record_shape(conv: nn.Conv2d, inputs, output: Tensor) -> None:
        if conv.groups == 1:
            shapes.append((output.numel() // output.shape[1], conv.weight[0].numel(), output.shape[1]))

    hooks = [m.register_forward_hook(record_shape) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    options = dict(dtype=dtype, device=images.device)
    weights = [torch.randn(n, k, **options).t() for _, k, n in shapes]
    inputs, outputs = (torch.randn(max(m * size for m, size in sizes), **options)
                       for sizes in ([(m, k) for m, k, _ in shapes], [(m, n) for m, _, n in shapes]))  # fmt: skip

    def call():
        with torch.inference_mode():
            for (m, k, n), weight in zip(shapes, weights, strict=True):
                torch.mm(inputs[: m * k].view(m, k), weight, out=outputs[: m * n].view(m, n))

    return call


def count_saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes that a training forward pass saves for the backward pass, without parameters and buffers."""
    parameter_storages = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameter_storages:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(images)
        total = sum(saved.values())
    del outputs
    return total
