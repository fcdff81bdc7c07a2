"""Kernels compiled for the machine at hand: VAN's layers on the CPU, see ``kernels.cpp``.

``python -m van_mm.ops`` compiles them (20 seconds, needs g++ 10 or newer); ``make`` does so by itself. They are kept in
the user's cache under a key of source, torch, Python and processor, and found there the next time van_mm is imported.
Without them everything works, on PyTorch's own operators.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).parent / "kernels.cpp"
loaded = False  # whether torch.ops.van_mm can be called
FLAGS = ["-O3", "-march=native", "-std=c++20", "-fopenmp", "-fPIC", "-shared"]


def library() -> Path:
    """Where the compiled kernels are, or would be."""
    cpu = Path("/proc/cpuinfo")
    features = (
        next((line for line in cpu.read_text().splitlines() if line.startswith("flags")), "") if cpu.is_file() else ""
    )
    source = [path.read_text() for path in sorted(SOURCE.parent.glob("*.[ch]*"))]
    parts = (*source, torch.__version__, platform.python_version(), platform.platform(), features, *FLAGS)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "van_mm" / f"kernels-{key}.so"


def build() -> Path:
    """Compile the kernels, unless that was done.

    Returns:
        Path: The library.

    Raises:
        RuntimeError: If there is no compiler, or it fails; the message has its last words.
    """
    from torch.utils.cpp_extension import include_paths

    target = library()
    if target.is_file():
        return target
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("no C++ compiler: install g++, or set CXX")
    target.parent.mkdir(parents=True, exist_ok=True)
    lib = Path(torch.__file__).parent / "lib"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # made aside and renamed: whole or absent
        draft = Path(folder) / target.name
        command = [compiler, *FLAGS, abi, *(f"-I{path}" for path in include_paths()), str(SOURCE), "-o", str(draft)]
        done = subprocess.run([*command, f"-L{lib}", "-ltorch_cpu", "-lc10"], text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{compiler} failed on {SOURCE}:\n" + "\n".join(done.stderr.splitlines()[-10:]))
        draft.replace(target)
    return target


def load() -> bool:
    """Make ``torch.ops.van_mm`` known if the kernels have been compiled and torch is 2.4 or newer, which can be
    told of their gradients; whether they are there. ``VAN_MM_KERNELS=0`` leaves them out."""
    global loaded
    if os.environ.get("VAN_MM_KERNELS") == "0":
        return False
    if not loaded and hasattr(torch.library, "register_autograd") and (file := library()).is_file():
        torch.ops.load_library(str(file))
        register()
        loaded = True
    return loaded


@contextmanager
def off() -> Iterator[None]:
    """Compute with PyTorch's operators inside, as without the kernels."""
    global loaded
    before, loaded = loaded, False
    try:
        yield
    finally:
        loaded = before


def dwconv_backward(
    x: Tensor, weight: Tensor, grad: Tensor, dilation: int, needed: tuple[bool, ...] = (True, True, True)
) -> tuple[Tensor | None, ...]:
    """Gradients of the input, weight and bias of a depth-wise convolution of ``x``; None for those not needed."""
    need_x, need_weight, need_bias = needed
    # That of the input is the convolution of the output's with the kernel turned round.
    grad_x = torch.ops.van_mm.dwconv(grad, weight.flip(2, 3), None, dilation) if need_x else None
    grad_weight = torch.ops.van_mm.dwconv_weight_grad(x, grad, weight.shape[2], dilation) if need_weight else None
    return grad_x, grad_weight, grad.sum((0, 2, 3), dtype=torch.float32) if need_bias else None


def register() -> None:
    """Tell PyTorch the kernels' shapes and gradients, for autograd, ``torch.compile`` and export."""

    @torch.library.register_fake("van_mm::dwconv")
    def _(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, gelu: bool = False) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    @torch.library.register_fake("van_mm::dwconv_weight_grad")
    def _(x: Tensor, grad: Tensor, kernel: int, dilation: int) -> Tensor:
        return x.new_empty(x.shape[1], 1, kernel, kernel)

    def setup_context(ctx, inputs, output) -> None:
        x, weight, bias, ctx.dilation, gelu = inputs
        if gelu:
            raise NotImplementedError("van_mm::dwconv has no gradient with gelu=True; apply GELU to its outcome")
        ctx.save_for_backward(x, weight)

    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *dwconv_backward(*ctx.saved_tensors, grad, ctx.dilation, ctx.needs_input_grad[:3]), None, None

    torch.library.register_autograd("van_mm::dwconv", backward, setup_context=setup_context)
