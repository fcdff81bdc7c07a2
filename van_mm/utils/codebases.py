"""The four codebases that van_mm extends, and where their configs are installed."""

from importlib.util import find_spec
from pathlib import Path

CODEBASES = ("mmpretrain", "mmdet", "mmseg", "mmpose")


def find_upstream_config_dir(codebase: str) -> Path | None:
    """Return the folder of the configs that ship with a codebase, or None if the codebase is not installed."""
    spec = find_spec(codebase) if codebase.isidentifier() else None
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0], ".mim/configs") if locations else None
