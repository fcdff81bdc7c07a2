"""Compile the CPU kernels, find them in the cache, and load them into PyTorch.

``python -m van_mm.ops`` compiles the kernels in about 20 seconds (g++ 10 or newer); ``make`` does so by itself. The
library is kept in the user's cache, under a key of its source, PyTorch, Python and the processor, next to a file with
its checksum. Without a usable library everything works on PyTorch's own operators.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

from van_mm.ops.autograd import register_operators
from van_mm.utils import home

KERNEL_SOURCE = Path(__file__).parent / "kernels.cpp"
COMPILER_FLAGS = ["-O3", "-march=native", "-std=c++20", "-fopenmp", "-fPIC", "-shared"]
is_loaded = False  # whether torch.ops.van_mm can be called


def get_library_path() -> Path | None:
    """Return the path of the compiled kernels, whether or not they exist; None if the user has no home folder."""
    cpu = Path("/proc/cpuinfo")
    features = (
        next((line for line in cpu.read_text().splitlines() if line.startswith("flags")), "") if cpu.is_file() else ""
    )
    source = [path.read_text() for path in sorted(KERNEL_SOURCE.parent.glob("*.[ch]*"))]
    parts = (*source, torch.__version__, platform.python_version(), platform.platform(), features, *COMPILER_FLAGS)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or (home.has_home and Path.home() / ".cache")
    return Path(cache, "van_mm", f"kernels-{key}.so") if cache else None


def get_checksum_path(library: Path) -> Path:
    """Return the path of the file that holds the library's SHA-256."""
    return library.with_suffix(".sha256")


def is_complete_library(library: Path | None) -> bool:
    """Whether the library exists and has the checksum it was built with.

    Loading a truncated library ends the process with a bus error, which Python cannot catch.
    """
    try:
        expected = get_checksum_path(library).read_text()
        return hashlib.sha256(library.read_bytes()).hexdigest() == expected
    except (OSError, AttributeError):  # a missing file, or no path at all
        return False


def build_library() -> Path:
    """Compile the kernels, unless a complete library is there already.

    Returns:
        Path: The library.

    Raises:
        RuntimeError: If there is no cache folder or no compiler, or if compiling fails. The message ends with the
            compiler's last lines.
    """
    from torch.utils.cpp_extension import include_paths

    target = get_library_path()
    if target is None:
        raise RuntimeError("there is no home folder to keep the kernels in. Set XDG_CACHE_HOME")
    if is_complete_library(target):
        return target
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("no C++ compiler: install g++, or set CXX")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        raise RuntimeError(f"{target.parent} cannot be written: {error.strerror}. Set XDG_CACHE_HOME") from error
    torch_lib = Path(torch.__file__).parent / "lib"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    includes = [f"-I{path}" for path in include_paths()]
    with folder as name:  # compiled in a folder of its own and renamed, so that it is complete or absent
        draft = Path(name) / target.name
        command = [compiler, *COMPILER_FLAGS, abi, *includes, str(KERNEL_SOURCE), "-o", str(draft)]
        done = subprocess.run([*command, f"-L{torch_lib}", "-ltorch_cpu", "-lc10"], text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{compiler} failed on {KERNEL_SOURCE}:\n" + "\n".join(done.stderr.splitlines()[-10:]))
        get_checksum_path(target).write_text(hashlib.sha256(draft.read_bytes()).hexdigest())
        draft.replace(target)
    return target


def load_library() -> bool:
    """Load the kernels into ``torch.ops.van_mm`` if a complete library is in the cache.

    Nothing is loaded with ``VAN_MM_KERNELS=0`` or before PyTorch 2.4, which cannot register their gradients. A library
    that does not load is reported in a warning.

    Returns:
        bool: Whether the kernels can be called.
    """
    global is_loaded
    if is_loaded or os.environ.get("VAN_MM_KERNELS") == "0" or not hasattr(torch.library, "register_autograd"):
        return is_loaded and os.environ.get("VAN_MM_KERNELS") != "0"
    path = get_library_path()
    if path is None or not path.exists():
        return False
    if not is_complete_library(path):
        warnings.warn(f"{path} is damaged and was not loaded. Compile it again: python -m van_mm.ops", stacklevel=2)
        return False
    try:
        torch.ops.load_library(str(path))
        register_operators()
    except (OSError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[0]
        warnings.warn(
            f"{path} does not load ({cause}). Delete it and compile it again: python -m van_mm.ops", stacklevel=2
        )
        return False
    is_loaded = True
    return True
