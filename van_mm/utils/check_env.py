"""Report installed versions and whether the suite can run with them: ``python -m van_mm.utils.check_env``."""

import importlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from van_mm.utils.codebases import CODEBASES

# Distribution names (the original and its community fork), module, and the tested versions: from the first, below the
# second.
TESTED_VERSIONS = [
    (("torch",), "torch", "2.11", "2.12"),
    (("torchvision",), "torchvision", "0.26", "0.27"),
    (("numpy",), "numpy", "1.24", "2.0"),
    (("opencv-python", "opencv-python-headless"), "cv2", "4.5", "4.12"),
    (("mmengine", "onedl-mmengine"), "mmengine", "0.10.3", "0.11"),
    (("mmcv", "onedl-mmcv"), "mmcv", "2.1.0", "2.2.0"),
    (("mmpretrain", "onedl-mmpretrain"), "mmpretrain", "1.2.0", "1.3"),
    (("mmdet", "onedl-mmdetection"), "mmdet", "3.3.0", "3.4"),
    (("mmsegmentation", "onedl-mmsegmentation"), "mmseg", "1.2.2", "1.3"),
    (("mmpose", "onedl-mmpose"), "mmpose", "1.3.2", "1.4"),
]
REMEDIES = {
    "mmcv.ops": "mmcv was built without its ops or for another version of torch. Build it for this one (see README)",
    "mmcv": "install mmcv 2.1.0 with its ops (see README). mmdet and mmseg reject 2.2.0 and newer",
}


def get_installed_version(names: tuple[str, ...]) -> str | None:
    """Return the version of the first installed distribution.

    Args:
        names (tuple[str]): Names of distributions that provide the same module.

    Returns:
        str | None: The version, or None if none of them is installed.
    """
    for name in names:
        try:
            return version(name)
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
    for names, module, low, high in TESTED_VERSIONS:
        installed = get_installed_version(names)
        optional = module in CODEBASES or module == "torchvision"
        error = find_import_error(module) if installed else None
        if installed is None:
            note = "not installed" + (" (optional)" if optional else "")
        elif error:
            note = f"does not import: {error}"
        elif not digit_version(low) <= digit_version(installed.partition("+")[0]) < digit_version(high):
            note = f"outside the tested range {low} <= version < {high}"
        else:
            note = "ok"
        print(f"{module:<16}{installed or '-':<14}{note}")
        if module in CODEBASES and installed and not error:
            usable.append(module)
        elif not optional and (installed is None or error):
            fatal.append(module)
    error = find_import_error("mmcv.ops")
    print(f"{'mmcv.ops':<30}{'does not load: ' + error if error else 'ok'}")
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


def describe_gpus() -> str:
    """Return the names of the GPUs that PyTorch can use, or a note that there is none."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or "none (the CPU is used)"


if __name__ == "__main__":
    sys.exit(main())
