"""Check and apply ``--cfg-options``."""

import inspect
import re
import sys
from difflib import get_close_matches
from pathlib import Path

import mmengine.registry as registries
from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from van_mm.utils.errors import UserError

ROOT_REGISTRIES = [value for value in vars(registries).values() if isinstance(value, Registry)]
# Top-level keys of a config that are not arguments of the Runner's constructor. The Runner or the tools read them.
TOP_LEVEL_KEYS = {
    "activation_checkpointing", "auto_scale_lr", "compile", "data_preprocessor", "demo", "efficient_conv_bn_eval",
    "find_unused_parameters", "model_wrapper_cfg", "sync_bn", "tta_model", "tta_pipeline",
}  # fmt: skip
READ_KEYS = TOP_LEVEL_KEYS.union(inspect.signature(Runner).parameters)
MAX_COPIES = 4  # that a message names; our choice
DATALOADER_KEYS = {"num_batch_per_epoch", *inspect.signature(DataLoader).parameters}


def check_cfg_options(cfg: Config, options: dict) -> None:
    """Check that every dotted key refers to a setting that exists, so that a misspelled key is not ignored.

    A key is accepted if the config contains it, or if the class that its dict builds has an argument of that name. Base
    classes count too, if the class passes ``**kwargs`` on to them. If a class takes any argument or a type cannot be
    resolved, the arguments are not fully known. Then only keys that are very similar to a known key are rejected. Below
    a key that the config does not contain, every key is accepted.

    Args:
        cfg (Config): Config that the options change. The current scope must be its ``default_scope``.
        options (dict): Values by dotted key, as ``--cfg-options`` parses them.

    Raises:
        UserError: If a key refers to nothing, or to a variable of the config file, which has no effect. The message
            suggests the closest names, or the settings that hold the variable's value.
    """
    for key in options:
        node = cfg._cfg_dict
        parts = key.split(".")
        if parts[0] in node and not is_read(cfg, parts[0]):
            copies = [".".join([place, *parts[1:]]) for place in find_copies(cfg, parts[0])]
            remedy = f"Change {', '.join(copies)}" if copies else "Change it in the config file"
            raise UserError(
                f"--cfg-options {key}: {parts[0]} is a variable of the config file, which nothing reads any more when "
                f"the config is loaded. {remedy} instead"
            )
        for depth, part in enumerate(parts):
            if isinstance(node, (list, tuple)):
                if not part.isdigit() or int(part) >= len(node):
                    raise UserError(
                        f"--cfg-options {key}: {'.'.join(parts[:depth])} is a list of {len(node)}; give 0 to "
                        f"{len(node) - 1}"
                    )
                node = node[int(part)]
                continue
            if not isinstance(node, dict):
                break  # the option replaces a value that is not a dict by a dict
            if part in node:
                node = node[part]
                continue
            known = set(node) | {"_delete_", "type"}
            if depth == 0:
                arguments, accepts_any = READ_KEYS, False
            elif depth == 1 and parts[0].endswith("_dataloader"):
                arguments, accepts_any = DATALOADER_KEYS, False
            else:
                arguments, accepts_any = collect_init_arguments(node)
            # Our choice: 0.6 is difflib's default. 0.85 matches typing errors but few valid names.
            similar = get_close_matches(part, known | arguments, n=3, cutoff=0.85 if accepts_any else 0.6)
            if part not in known | arguments and (similar or not accepts_any):
                parent = ".".join(parts[:depth]) or "a config"
                hint = f"did you mean {', '.join(similar)}?" if similar else f"it has {', '.join(sorted(node)[:12])}"
                raise UserError(f"--cfg-options {key}: {parent} has no '{part}'; {hint}")
            break


def is_read(cfg: Config, key: str) -> bool:
    """Return whether the runner, a tool or a module of ``custom_imports`` reads a top-level key of a config.

    All other keys are variables, whose values were copied when the config file was read.
    """
    if key in READ_KEYS or key in ("custom_imports", "dist_params"):
        return True
    modules = (cfg.get("custom_imports") or {}).get("imports") or []
    for name in [modules] if isinstance(modules, str) else modules:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and re.search(rf"\b{re.escape(key)}\b", Path(file).read_text(errors="replace")):
            return True
    return False


def find_copies(cfg: Config, name: str) -> list[str]:
    """Return the places of a config that hold the value of a top-level variable, the most likely ones first.

    Args:
        cfg (Config): The config.
        name (str): Name of the variable.

    Returns:
        list[str]: Dotted keys below keys that are read, at most :data:`MAX_COPIES`. Whole numbers, truth values and
        None count only if they have the variable's name, because too many settings have the same value.
    """
    values = drop_scopes(cfg._cfg_dict)
    value, same_name, others = values[name], [], []

    def visit(node: object, path: str) -> None:
        if node == value and type(node) is type(value):
            (same_name if path.rpartition(".")[2] == name else others).append(path)
            return
        if isinstance(node, (list, tuple)):
            node = dict(enumerate(node))
        for key, child in node.items() if isinstance(node, dict) else ():
            visit(child, f"{path}.{key}")

    for key in READ_KEYS & set(cfg):
        visit(values[key], key)
    is_telling = isinstance(value, (str, list, tuple, dict)) or isinstance(value, float) and not value.is_integer()
    order = {split: i for i, split in enumerate(("train", "val", "test", "model"))}
    found = same_name or (others if is_telling else [])
    return sorted(found, key=lambda path: (order.get(path.partition("_")[0].partition(".")[0], 9), path))[:MAX_COPIES]


def drop_scopes(node: object) -> object:
    """Return a copy of a part of a config without ``_scope_``, which mmengine adds to what comes from another package.

    Lists and tuples are the same here, because mmengine turns some tuples into lists.
    """
    if isinstance(node, dict):
        return {key: drop_scopes(child) for key, child in node.items() if key != "_scope_"}
    return [drop_scopes(child) for child in node] if isinstance(node, (list, tuple)) else node


def collect_init_arguments(node: dict) -> tuple[set[str], bool]:
    """Collect the constructor arguments of the class that a dict builds.

    Args:
        node (dict): A dict of a config, with or without ``type``.

    Returns:
        tuple[set[str], bool]: Names of the arguments, those of base classes included where ``**kwargs`` are passed on;
        and whether other arguments may be accepted too.
    """
    kind = node.get("type")
    if isinstance(kind, str):
        kind = next((cls for root in ROOT_REGISTRIES if (cls := resolve_type(root, kind))), None)
    if not inspect.isclass(kind):
        return set(), True
    names = set()
    for parent in kind.__mro__:
        if parent is object or "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(parent.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names - {"self"}, False
    return names - {"self"}, True  # even the last base class takes **kwargs


def resolve_type(root: Registry, kind: str) -> type | None:
    """Return the class with a name in a registry of the current scope.

    Args:
        root (Registry): A root registry of mmengine, such as ``MODELS``.
        kind (str): Name of the class, with or without a scope.

    Returns:
        type | None: The class, or None if the registry does not contain the name.
    """
    try:
        with root.switch_scope_and_registry(None) as registry:
            return registry.get(kind)
    except Exception:  # modules of a registry may fail to import on this machine
        return None


def apply_cfg_options(cfg: Config, options: dict) -> None:
    """Check ``--cfg-options`` and merge them into a config, in place.

    Args:
        cfg (Config): Config to change. If there are options, its ``default_scope`` becomes the current scope.
        options (dict): Values by dotted key.

    Raises:
        UserError: If a key refers to nothing, or if a value cannot be merged.
    """
    if options:
        init_default_scope(cfg.default_scope)
        check_cfg_options(cfg, options)
    try:
        cfg.merge_from_dict(options)
    except Exception as error:
        raise UserError(f"--cfg-options {options}: {error}") from error
