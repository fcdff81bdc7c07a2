"""Where the experiments' configs are: in the checkout, or inside the installed package."""

from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path

from mmengine.config import Config

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
    upstream name (``mmdet::...``, passed on as it is).

    Raises:
        NoConfigError: If there is none.
    """
    if "::" in name:
        return name
    for path in (Path(name), CONFIGS.parent / name, CONFIGS / name, CONFIGS / f"{name}.py"):
        if path.is_file():
            return str(path.resolve())
    ours = list_configs()
    near = get_close_matches(Path(name).stem, [Path(other).name for other in ours], n=5, cutoff=0.4)
    known = sorted(
        (other for other in ours if Path(other).name in near), key=lambda other: near.index(Path(other).name)
    )
    raise NoConfigError(f"no config '{name}'. Did you mean {', '.join(known or ours)}?")


def get_config(name: str) -> Config:
    """A config of the suite, with everything it inherits.

    Args:
        name (str): As in :func:`find_config`.

    Raises:
        NoConfigError: If there is none of that name.
    """
    return Config.fromfile(find_config(name))
