"""The four codebases that van_mm extends, where their configs are installed, and where mmcv's operators come from."""

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
