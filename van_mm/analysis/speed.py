"""Time and memory of models, always beside a reference that runs in turn with them in the same process."""

import time
from collections.abc import Callable
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from .complexity import forward


def alternate(functions: dict[str, Callable[[], object]], rounds: int = 7, warmup: int = 2) -> dict[str, list[float]]:
    """Call the functions in turn, so that what else happens on the machine hits all of them.

    Args:
        functions (dict): By name; each is called once a round.
        rounds (int): Timed rounds. Defaults to 7.
        warmup (int): Rounds before them. Defaults to 2.

    Returns:
        dict[str, list[float]]: Seconds of each call.
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


def ratio(reference: list[float], candidate: list[float]) -> tuple[float, float, float]:
    """How many times faster the candidate is: median over the rounds, and the quartiles."""
    ratios = [a / b for a, b in zip(reference, candidate, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return median(ratios), low, high


def tensors(outputs) -> list[Tensor]:
    """Every tensor with a gradient in nested outputs."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.requires_grad else []
    if isinstance(outputs, dict):
        outputs = outputs.values()
    return [tensor for output in outputs for tensor in tensors(output)] if isinstance(outputs, (list, tuple)) else []


class Whole(nn.Module):
    """All that inference of a whole model runs, as a function of images, see :func:`van_mm.analysis.complexity`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        forward(self.model, images)


def inference(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """A call of the model in eval mode; ``dtype`` bfloat16 casts model and images."""
    model.eval()  # mmpretrain's VAN.train() returns None, and so does its eval()
    model = model.to(dtype)
    images = images.to(dtype)

    def call():
        with torch.inference_mode():
            return model(images)

    return call


def training(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """A forward and backward pass in training mode; ``dtype`` bfloat16 runs the forward under autocast."""
    model.train()

    def call():
        model.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = tensors(model(images))
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    return call


def products(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """A call of what can't be had for less: the dense convolutions, 1x1 and patch embeddings, as plain matrix products.

    Their inputs lie in rows already and their outputs are written over, so that this is a limit of the machine.
    """
    shapes = []

    def note(conv: nn.Conv2d, inputs, output: Tensor) -> None:
        if conv.groups == 1:
            shapes.append((output.numel() // output.shape[1], conv.weight[0].numel(), output.shape[1]))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
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


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass in training mode keeps for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(images)
        total = sum(kept.values())
    del outputs
    return total
