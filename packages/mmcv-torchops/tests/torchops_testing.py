"""Helpers of the operator tests: run a function of ``mmcv.ops`` on this package's operators or on compiled ones."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.machinery import ExtensionFileLoader
from types import ModuleType
from typing import Any
from unittest import mock

import mmcv.ops
import mmcv_torchops
import pytest
import torch

EXT = importlib.import_module("mmcv._ext")
HAS_COMPILED = isinstance(EXT.__spec__.loader, ExtensionFileLoader)
needs_compiled = pytest.mark.skipif(
    not HAS_COMPILED, reason="needs a compiled mmcv (README: Compare with a compiled mmcv)"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]


@contextmanager
def use_operators(extension: ModuleType) -> Iterator[None]:
    """Let all of ``mmcv.ops`` call the operators of ``extension``."""
    with ExitStack() as patches:
        for info in pkgutil.iter_modules(mmcv.ops.__path__):
            module = importlib.import_module(f"mmcv.ops.{info.name}")
            if hasattr(module, "ext_module"):
                patches.enter_context(mock.patch.object(module, "ext_module", extension))
        yield


def run_torchops(function: Callable, *args, **kwargs) -> Any:
    """Call a function of ``mmcv.ops`` on the operators of this package."""
    with use_operators(mmcv_torchops):
        return function(*args, **kwargs)


def run_compiled(function: Callable, *args, **kwargs) -> Any:
    """Call a function of ``mmcv.ops`` on the compiled operators."""
    assert HAS_COMPILED
    with use_operators(EXT):
        return function(*args, **kwargs)


def compute_with_gradients(
    function: Callable[..., torch.Tensor], *inputs: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Return the output, and the gradient of each floating-point input for a fixed random gradient of the output."""
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) if x is not None else None for x in inputs]
    output = function(*leaves)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(output.shape, generator=generator, dtype=torch.float64).to(output)
    if output.requires_grad:
        (output * weights).sum().backward()
    return output.detach(), [x.grad if x is not None else None for x in leaves]


def assert_same(actual, expected, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Compare tensors, and lists or tuples of tensors and None, of the same structure."""
    if isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, atol, rtol)
    elif expected is None:
        assert actual is None or not actual.abs().any()
    else:
        torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)
