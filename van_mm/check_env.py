"""``python -m van_mm.check_env``: every version, which are outside the tested range, and whether the suite runs."""

import importlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from van_mm.configs import CODEBASES

# Distribution (or its community fork), module, and the versions [from, below) that the suite was tested with.
TESTED = [
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
    "mmcv.ops": "mmcv was built without its ops or for another torch; build it again for this one (see README)",
    "mmcv": "install mmcv 2.1.0 with its ops (see README); mmdet and mmseg refuse 2.2.0 and newer",
}


def installed_version(names: tuple[str, ...]) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def import_error(module: str) -> str | None:
    """Why ``module`` does not import, in one line, or None if it does."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def main() -> int:
    """Print the report; 0 if the suite can run, 1 if it can't."""
    from mmengine.utils import digit_version

    print(f"{'python':<16}{platform.python_version():<14}{platform.platform()}")
    fatal, usable = [], []
    for names, module, low, high in TESTED:
        found = installed_version(names)
        optional = module in CODEBASES or module == "torchvision"
        error = import_error(module) if found else None
        if found is None:
            note = "not installed" + (" (optional)" if optional else "")
        elif error:
            note = f"does not import: {error}"
        elif not digit_version(low) <= digit_version(found.partition("+")[0]) < digit_version(high):
            note = f"outside the tested range {low} <= version < {high}"
        else:
            note = "ok"
        print(f"{module:<16}{found or '-':<14}{note}")
        if module in CODEBASES and found and not error:
            usable.append(module)
        elif not optional and (found is None or error):
            fatal.append(module)
    error = import_error("mmcv.ops")
    print(f"{'mmcv.ops':<30}{'does not load: ' + error if error else 'ok'}")
    if error:
        fatal.append("mmcv.ops")
    error = import_error("van_mm")
    print(f"{'van_mm':<30}{'does not import: ' + error if error else 'ok'}")
    if error:
        fatal.append("van_mm")
    import_error("torch") or print(f"{'GPU':<30}{_gpus()}")

    if not fatal and usable:
        print(f"\nThe suite can run: {', '.join(usable)}.")
        return 0
    print("\nThe suite can't run:")
    for module in fatal or ["a codebase"]:
        print(f"  {module}: {REMEDIES.get(module, 'install or mend it (see README)')}")
    return 1


def _gpus() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or "none (the CPU is used)"


if __name__ == "__main__":
    sys.exit(main())
