"""Where the experiments' configs are: in the checkout, or inside the installed package."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from van_mm.errors import UserError

CODEBASES = ("mmpretrain", "mmdet", "mmseg", "mmpose")
PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
CONFIGS = CHECKOUT / "configs" if (CHECKOUT / "pyproject.toml").is_file() else PACKAGE / ".mim" / "configs"


class NoConfigError(FileNotFoundError):
    """A config that there is not; the message lists the nearest names."""


def list_configs(pattern: str = "*") -> list[str]:
    """Names of the suite's experiments, such as ``seg/upernet_van_b2``, sorted.

    Args:
        pattern (str): Shell pattern that names have to match: ``'det/*'``, ``'*_b0_*'``. Defaults to '*', all.
    """
    names = (path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts)
    return sorted(name.as_posix() for name in names if fnmatch(name.as_posix(), pattern))


def find_config(name: str) -> str:
    """The path of a config named by a path, by a path below ``configs/`` (``seg/upernet_van_b2``), or by an
    upstream name (``mmdet::retinanet/retinanet_r50_fpn_1x_coco``).

    Raises:
        NoConfigError: If there is none.
    """
    if "::" in name:
        return find_upstream_config(name)
    for path in (Path(name), CONFIGS.parent / name, CONFIGS / name, CONFIGS / f"{name}.py"):
        if path.is_file():
            return str(path.resolve())
    ours = list_configs()
    near = get_close_matches(Path(name).stem, [Path(other).name for other in ours], n=5, cutoff=0.4)
    known = sorted(
        (other for other in ours if Path(other).name in near), key=lambda other: near.index(Path(other).name)
    )
    raise NoConfigError(f"no config '{name}'. Did you mean {', '.join(known or ours)}?")


def find_upstream_config(name: str) -> str:
    """The path of a config that ships with an installed codebase, named as in ``_base_``: ``mmdet::folder/file.py``.

    Raises:
        NoConfigError: If the codebase is not installed or has none of that name.
    """
    codebase, _, file = name.partition("::")
    root = find_upstream_root(codebase)
    if root is None:
        raise NoConfigError(f"no config '{name}': the package {codebase} is not installed")
    for path in (root / file, root / f"{file}.py"):
        if path.is_file():
            return str(path)
    theirs = {path.stem: path.relative_to(root).as_posix() for path in root.rglob("*.py") if "_base_" not in path.parts}
    near = [f"{codebase}::{theirs[stem]}" for stem in get_close_matches(Path(file).stem, theirs, n=3, cutoff=0.4)]
    raise NoConfigError(f"no config '{name}'." + (f" Did you mean {', '.join(near)}?" if near else ""))


def find_upstream_root(codebase: str) -> Path | None:
    """The folder of the configs that ship with a codebase; None if that is not installed."""
    spec = find_spec(codebase) if codebase.isidentifier() else None
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0], ".mim/configs") if locations else None


def run_name(config: str, backbone: str | None = None) -> str:
    """The name of a config's runs, ``work_dirs/<name>/``.

    Args:
        config (str): Its path or name.
        backbone (str, optional): Size of the VAN that ``--backbone`` put into it.
    """
    name = Path(config).name.removesuffix(".py")
    return f"{name}_van_{backbone}" if backbone else name


def get_config(name: str) -> Config:
    """A config of the suite, with everything it inherits.

    Args:
        name (str): As in :func:`find_config`.

    Raises:
        NoConfigError: If there is none of that name.
        UserError: If it does not load.
    """
    path = find_config(name)
    try:
        return Config.fromfile(path)
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error).partition(', the current sys.path')[0]}"
        raise UserError(f"{path} does not load: {problem}") from error


def get_experiment(name: str, parts: Sequence[str] = ("model",)) -> Config:
    """:func:`get_config`, of a config of one of the four codebases.

    Args:
        name (str): As in :func:`find_config`.
        parts (Sequence[str]): What it has to have.

    Raises:
        UserError: If it is of none of them or lacks a part.
    """
    cfg = get_config(name)
    if cfg.get("default_scope") not in CODEBASES:
        scope = cfg.get("default_scope")
        raise UserError(f"{name}: default_scope is {scope!r}; it has to be one of {', '.join(CODEBASES)}")
    for part in parts:
        if part not in cfg:
            raise UserError(f"{name} has no '{part}', so it is no whole experiment")
    return cfg
