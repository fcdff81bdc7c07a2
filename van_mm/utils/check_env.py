"""Report installed versions and whether the suite can run with them: ``python -m van_mm.utils.check_env``."""

import importlib
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from van_mm.utils.codebases import CODEBASES, has_compiled_operators

# Distributions that provide each module, and their tested versions: from the first, below the second.
TESTED_VERSIONS = {
    "torch": {"torch": ("2.1", "2.15")},
    "torchvision": {"torchvision": ("0.16", "0.30")},
    "numpy": {"numpy": ("1.26", "2.4")},
    "cv2": {"opencv-python": ("4.5", "5.1"), "opencv-python-headless": ("4.5", "5.1")},
    "mmengine": {"mmengine": ("0.10.3", "0.11"), "onedl-mmengine": ("0.10.12", "0.11")},
    "mmcv": {"mmcv-lite": ("2.1.0", "2.2.0"), "mmcv": ("2.1.0", "2.2.0"), "onedl-mmcv": ("2.3", "2.4")},
    "mmpretrain": {"mmpretrain": ("1.2.0", "1.3"), "onedl-mmpretrain": ("1.3", "1.4")},
    "mmdet": {"mmdet": ("3.3.0", "3.4"), "onedl-mmdetection": ("3.5", "3.6")},
    "mmseg": {"mmsegmentation": ("1.2.2", "1.3"), "onedl-mmsegmentation": ("1.4", "1.5")},
    "mmpose": {"mmpose": ("1.3.2", "1.4")},
}
REMEDIES = {
    "mmcv.ops": "install packages/mmcv-torchops, or a compiled mmcv for this version of torch (see README)",
    "mmcv": "install mmcv-lite 2.1.0 (see README). mmdet and mmseg reject 2.2.0 and newer",
}


def find_distribution(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the name and the version of the first installed distribution, or None if none is installed."""
    for name in names:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def find_import_error(module: str) -> str | None:
    """Return the error of importing ``module`` as one line, or None if the import works."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def main() -> int:
    """Print the report.

    Returns:
        int: Exit code: 0 if the suite can run with at least one codebase, otherwise 1.
    """
    from mmengine.utils import digit_version

    print(f"{'python':<16}{platform.python_version():<14}{platform.platform()}")
    fatal, usable = [], []
    for module, tested in TESTED_VERSIONS.items():
        name, installed = find_distribution(tested) or (None, None)
        optional = module in CODEBASES or module == "torchvision"
        error = find_import_error(module) if installed else None
        if installed is None:
            note = "not installed" + (" (optional)" if optional else "")
        elif error:
            note = f"does not import: {error}"
        else:
            low, high = tested[name]
            known = digit_version(low) <= digit_version(installed.partition("+")[0]) < digit_version(high)
            note = "ok" if known else f"outside the tested range {low} <= version < {high}"
            note += f" ({name})" if name != next(iter(tested)) else ""
        print(f"{module:<16}{installed or '-':<14}{note}")
        if module in CODEBASES and installed and not error:
            usable.append(module)
        elif not optional and (installed is None or error):
            fatal.append(module)
    error = find_import_error("mmcv.ops")
    print(f"{'mmcv.ops':<30}{'does not load: ' + error if error else 'ok: ' + describe_operators()}")
    if error:
        fatal.append("mmcv.ops")
    error = find_import_error("van_mm")
    print(f"{'van_mm':<30}{'does not import: ' + error if error else 'ok'}")
    if error:
        fatal.append("van_mm")
    find_import_error("torch") or print(f"{'GPU':<30}{describe_gpus()}")

    if not fatal and usable:
        print(f"\nThe suite can run: {', '.join(usable)}.")
        return 0
    print("\nThe suite can't run:")
    for module in fatal or ["a codebase"]:
        print(f"  {module}: {REMEDIES.get(module, 'install or repair it (see README)')}")
    return 1


def describe_operators() -> str:
    """Return where mmcv's operators come from."""
    if has_compiled_operators():
        return "compiled"
    name, installed = find_distribution(["mmcv-torchops"]) or ("an unknown module", "")
    return f"PyTorch and torchvision ({name} {installed})"


def describe_gpus() -> str:
    """Return the names of the GPUs that PyTorch can use, or a note that there is none."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or "none (the CPU is used)"


if __name__ == "__main__":
    sys.exit(main())
