"""The four codebases that van_mm extends, where their configs are installed, and where mmcv's operators come from."""

import gc
import sys
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from pathlib import Path

CODEBASES = ("mmpretrain", "mmdet", "mmseg", "mmpose")


def find_upstream_config_dir(codebase: str) -> Path | None:
    """Return the folder of the configs that ship with a codebase, or None if the codebase is not installed."""
    spec = find_spec(codebase) if codebase.isidentifier() else None
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0], ".mim/configs") if locations else None


def has_compiled_operators() -> bool:
    """Return whether mmcv's operators are compiled ones. mmcv-torchops provides them as Python modules."""
    spec = find_spec("mmcv._ext")
    return spec is not None and isinstance(spec.loader, ExtensionFileLoader)


def import_codebase(codebase: str) -> None:
    """Import PyTorch and what a run needs of a codebase, which takes most of the start of a tool.

    The garbage collector pauses, because imports create many objects and leave no garbage; this saves a quarter of the
    time. Afterwards it ignores what was imported. Errors are left to the import that the registries repeat, which says
    what does not build.

    Args:
        codebase (str): One of :data:`CODEBASES`.
    """
    if f"{codebase}.models" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        for part in ("models", "datasets", "evaluation"):
            with suppress(Exception):
                import_module(f"{codebase}.{part}")
        gc.freeze()
    finally:
        gc.enable()
