"""Find, list and load configs."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from types import FunctionType

from mmengine.config import Config
from mmengine.registry import Registry

from van_mm.utils.codebases import CODEBASES, find_upstream_config_dir
from van_mm.utils.config_walk import iter_dicts
from van_mm.utils.errors import ConfigNotFoundError, UserError

PACKAGE_DIR = Path(__file__).resolve().parents[1]
CHECKOUT_DIR = PACKAGE_DIR.parent
# An installed package has its configs below .mim, as OpenMMLab's packages do.
CONFIG_DIR = (
    CHECKOUT_DIR / "configs" if (CHECKOUT_DIR / "pyproject.toml").is_file() else PACKAGE_DIR / ".mim" / "configs"
)
NO_EXPERIMENTS = {"_base_", "_templates_"}  # folders of configs that are parts of others, or patterns for them


def list_configs(pattern: str = "*") -> list[str]:
    """Return the names of the suite's experiments.

    Args:
        pattern (str): Shell pattern that the names must match, such as ``'det/*'``. Defaults to '*', which matches all.

    Returns:
        list[str]: Sorted names. Each of them is accepted by :func:`get_config` and by the tools.

    Example:
        >>> from van_mm import list_configs
        >>> list_configs("seg/semantic_fpn_*")
        ['seg/semantic_fpn_van_b0', 'seg/semantic_fpn_van_b1', 'seg/semantic_fpn_van_b2', 'seg/semantic_fpn_van_b3']
    """
    names = (file.with_suffix("").as_posix() for file in list_config_files(CONFIG_DIR))
    return sorted(name for name in names if fnmatch(name, pattern))


def list_config_files(root: Path) -> list[Path]:
    """Return the sorted paths of the experiments below a folder, relative to it, without bases and templates."""
    return sorted(path.relative_to(root) for path in root.rglob("*.py") if not NO_EXPERIMENTS & set(path.parts))


def find_config(name: str) -> str:
    """Return the path of a config file.

    Args:
        name (str): A path, a path below ``configs/`` (``seg/upernet_van_b2``), or the upstream name of a config that
            ships with an installed codebase (``mmdet::retinanet/retinanet_r50_fpn_1x_coco``). The suffix ``.py`` can be
            omitted.

    Returns:
        str: The absolute path.

    Raises:
        ConfigNotFoundError: If there is no such config. The message suggests the closest names.

    Example:
        >>> from van_mm.apis.configs import find_config
        >>> find_config("seg/upernet_van_b2").endswith("configs/seg/upernet_van_b2.py")
        True
        >>> find_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco").endswith("retinanet_r50_fpn_1x_coco.py")
        True
    """
    if "::" in name:
        return find_upstream_config(name)
    for path in (Path(name), CONFIG_DIR.parent / name, CONFIG_DIR / name, CONFIG_DIR / f"{name}.py"):
        if path.is_file():
            return str(path.resolve())
    names = list_configs()
    similar = get_close_matches(Path(name).stem, [Path(known).name for known in names], n=5, cutoff=0.4)
    suggestions = sorted(
        (known for known in names if Path(known).name in similar), key=lambda known: similar.index(Path(known).name)
    )
    raise ConfigNotFoundError(f"no config '{name}'. Did you mean {', '.join(suggestions or names)}?")


def find_upstream_config(name: str) -> str:
    """Return the path of a config that ships with an installed codebase.

    Args:
        name (str): Codebase and path, as in ``_base_``: ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``. The suffix
            can be omitted.

    Returns:
        str: The path.

    Raises:
        ConfigNotFoundError: If the codebase is not installed, or contains no such config. The message suggests the
            closest names.
    """
    codebase, _, file = name.partition("::")
    root = find_upstream_config_dir(codebase)
    if root is None:
        raise ConfigNotFoundError(f"no config '{name}': the package {codebase} is not installed")
    for path in (root / file, root / f"{file}.py"):
        if path.is_file():
            return str(path)
    names = {path.stem: path.as_posix() for path in list_config_files(root)}
    similar = [f"{codebase}::{names[stem]}" for stem in get_close_matches(Path(file).stem, names, n=3, cutoff=0.4)]
    raise ConfigNotFoundError(f"no config '{name}'." + (f" Did you mean {', '.join(similar)}?" if similar else ""))


def get_run_name(config: str, backbone: str | None = None, data: str | None = None) -> str:
    """Return the name of the folder below ``work_dirs/`` for the runs of a config.

    Args:
        config (str): Path or name of the config.
        backbone (str, optional): Size of the VAN, if ``--backbone`` replaced the config's backbone.
        data (str, optional): Folder of one's own data.

    Returns:
        str: The config's file name without suffix, followed by the VAN size and the folder's name if there are any.

    Example:
        >>> get_run_name("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco", "b2")
        'fcos_r50-caffe_fpn_gn-head_1x_coco_van_b2'
    """
    name = Path(config).name.removesuffix(".py")
    name = f"{name}_van_{backbone}" if backbone else name
    return f"{name}_{Path(data).resolve().name}" if data else name


def get_config(name: str) -> Config:
    """Load a config with everything that it inherits.

    Args:
        name (str): A path, a path below ``configs/``, or an upstream name, as in :func:`find_config`.

    Returns:
        Config: The loaded config.

    Raises:
        ConfigNotFoundError: If there is no such config. The message suggests the closest names.
        UserError: If the config does not load. The message contains the error of its code.

    Example:
        >>> from van_mm import get_config
        >>> cfg = get_config("seg/upernet_van_b2")
        >>> cfg.model.backbone.arch, cfg.model.decode_head.in_channels
        ('b2', [64, 128, 320, 512])
    """
    path = find_config(name)
    for folder in (str(Path(path).parent), str(Path.cwd())):  # for modules of custom_imports
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        with find_bases_by_path():
            cfg = Config.fromfile(path)
    except Exception as error:
        raise UserError(f"{path} does not load: {describe_load_error(error)}") from error
    return use_type_names(cfg)


@contextmanager
def find_bases_by_path() -> Iterator[None]:
    """Let mmengine find upstream bases (``mmdet::_base_/...``) by their paths, without its search of the model index.

    That search parses the metafiles of all models of the codebase, half a second for each base, and is needed only for
    a name without ``.py``. mmengine has no setting for it, so its function is replaced inside the ``with`` block.
    """
    search = Config._get_cfg_path

    def find_base(name: str, filename: str) -> tuple[str, str | None]:
        codebase, _, file = name.partition("::")
        root = find_upstream_config_dir(codebase) if file else None
        if root and (root / file).is_file():
            return str(root / file), codebase
        try:
            return search(name, filename)
        except (ValueError, FileNotFoundError) as error:
            if root is None:
                raise
            found = Path(find_upstream_config(name))  # finds it without .py, or suggests others
            raise ConfigNotFoundError(
                f"no base '{name}'. Did you mean {codebase}::{found.relative_to(root).as_posix()}?"
            ) from error

    Config._get_cfg_path = staticmethod(find_base)
    try:
        yield
    finally:
        Config._get_cfg_path = staticmethod(search)


def describe_load_error(error: Exception) -> str:
    """Return an error of a config in one line. For a module of ``custom_imports``, it is the module's own error."""
    problem = str(error).partition(", the current sys.path")[0]
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    text = f"{type(error).__name__}: {problem}"
    origin = causes[-1]
    if not isinstance(error, ImportError) or origin is error:
        return text
    frame = traceback.extract_tb(origin.__traceback__)[-1]
    place = "" if "importlib" in frame.filename else f" ({frame.filename}, line {frame.lineno}: {frame.line})"
    return f"{text}: {type(origin).__name__}: {origin}{place}"


def use_type_names(cfg: Config) -> Config:
    """Replace classes that a config gives as ``type`` by their names, and return the config.

    New-style configs import classes. A class that is registered gets its registered name, with its scope unless it is
    the config's. Any other class gets its full import path. A missing ``default_scope`` comes from the model's class.
    """
    nodes = [node for node in iter_dicts(cfg._cfg_dict) if isinstance(node.get("type"), (type, FunctionType))]
    if "model" in cfg and not cfg.get("default_scope"):
        kind = (cfg.model or {}).get("type") or ""
        scope = (kind if isinstance(kind, str) else f"{kind.__module__}.").partition(".")
        if scope[0] in CODEBASES and scope[1]:
            cfg.default_scope = scope[0]
    if nodes:
        names = list_registered_names(cfg.get("default_scope"))
        for node in nodes:
            kind = node["type"]
            node["type"] = names.get(kind) or get_import_path(kind) or kind
    return cfg


def list_registered_names(default_scope: str | None) -> dict[type, str]:
    """Return the registered name of each class in the registries of mmengine, the codebases and this package."""
    names, own_names = {}, set()
    for scope in (default_scope, "mmengine", *CODEBASES, "van_mm"):
        module = sys.modules.get(f"{scope}.registry")
        for registry in vars(module).values() if module else ():
            if isinstance(registry, Registry) and registry.scope == scope:
                for name, kind in registry.module_dict.items():
                    if scope == default_scope:
                        own_names.add(name)
                    is_plain = scope == default_scope or scope == "mmengine" and name not in own_names
                    names.setdefault(kind, name if is_plain else f"{scope}.{name}")
    return names


def get_import_path(kind: type) -> str | None:
    """Return the module and the name of a class, if it can be imported by them."""
    path = f"{kind.__module__}.{kind.__qualname__}"
    return path if getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind else None


def get_experiment_config(name: str, parts: Sequence[str] = ("model",)) -> Config:
    """Load a config and check that it is an experiment in one of the four codebases.

    Args:
        name (str): A path, a path below ``configs/``, or an upstream name, as in :func:`find_config`.
        parts (Sequence[str]): Top-level keys that the config must contain. Defaults to ('model',).

    Returns:
        Config: The config.

    Raises:
        ConfigNotFoundError: If there is no such config.
        UserError: If the config does not load, has another ``default_scope``, or lacks one of ``parts``.
    """
    cfg = get_config(name)
    if cfg.get("default_scope") not in CODEBASES:
        scope = cfg.get("default_scope")
        raise UserError(f"{name}: default_scope is {scope!r}. Set it to one of {', '.join(CODEBASES)}")
    for part in parts:
        if part not in cfg:
            raise UserError(f"{name} has no '{part}'. Add it, or inherit from a config that has it")
    return cfg
