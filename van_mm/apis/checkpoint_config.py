"""The config of a checkpoint: the one that mmengine keeps in it, or the experiment that its weights are of."""

import ast
from importlib import import_module

import torch
from mmengine.config import Config
from mmengine.registry import Registry

from van_mm.apis.configs import get_config, list_configs
from van_mm.checkpoints.io import may_run_code
from van_mm.checkpoints.key_maps import get_state_dict, split_state_dict
from van_mm.checkpoints.loading import guess_arch
from van_mm.utils.codebases import CODEBASES
from van_mm.utils.config_walk import iter_dicts
from van_mm.utils.errors import UserError

PACKAGES = ("mmengine", "mmcv", *CODEBASES, "van_mm")
# What prediction needs of a config. The rest is not read.
PREDICTION_KEYS = (
    "default_scope", "model", "data_preprocessor", "test_dataloader", "val_dataloader", "visualizer", "custom_imports",
)  # fmt: skip
REMEDY = "Name the config too: van_mm.load(config, checkpoint)"


def get_checkpoint_config(checkpoint: dict, source: str) -> Config:
    """Return the config of the model in a checkpoint.

    Args:
        checkpoint (dict): As read from a file.
        source (str): Where it was read from, for messages.

    Returns:
        Config: The config that mmengine keeps in checkpoints, or else the experiment of this suite whose classifier,
        backbone or UperNet the weights are of. A backbone's config has a model without a head.

    Raises:
        UserError: If the checkpoint has no config and is of another model, or if its config could run code.
    """
    meta = checkpoint.get("meta")
    text = meta.get("cfg") if isinstance(meta, dict) else None
    return read_config(text, source) if isinstance(text, str) and text else guess_config(checkpoint, source)


def read_config(text: str, source: str) -> Config:
    """Read the text of a config as data, without running it.

    A config is Python code, and mmengine runs it. What it writes into checkpoints only consists of dicts, lists and
    constants, so that it can be read without that. Types have to be registered ones, because a config could name any
    function of any module as a type.

    Args:
        text (str): The config in the format of ``Config.pretty_text``.
        source (str): File that the text is from, for messages.

    Returns:
        Config: What prediction needs of the config.

    Raises:
        UserError: If the text is more than data, if a type is not registered, or if the config is of no codebase.

    Example:
        >>> read_config("default_scope = 'mmseg'\\nmodel = dict(type='EncoderDecoder')", "a.pth").model
        {'type': 'EncoderDecoder'}
    """
    try:
        assigned = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
        nodes = {target.id: node.value for node in assigned for target in node.targets if isinstance(target, ast.Name)}
        values = {key: evaluate(nodes[key]) for key in PREDICTION_KEYS if key in nodes}
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"the config in {source} is no plain data ({error}). {REMEDY}") from error
    values["test_dataloader"] = values.get("test_dataloader") or values.pop("val_dataloader", None)
    cfg = Config(values, cfg_text=text, filename=source)
    if cfg.get("default_scope") not in CODEBASES or "model" not in cfg:
        raise UserError(
            f"the config in {source} is of no model of {', '.join(CODEBASES)}: its default_scope is "
            f"{cfg.get('default_scope')!r}. {REMEDY}"
        )
    import_custom_modules(cfg, source)
    check_types(cfg, source)
    return cfg


def evaluate(node: ast.AST):
    """Return the value of an expression of dicts, lists, tuples, sets and constants.

    Raises:
        ValueError: If the expression is anything else.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("dict", "set"):
        given = [evaluate(one) for one in node.args]
        values = {keyword.arg: evaluate(keyword.value) for keyword in node.keywords}
        return dict(*given, **values) if node.func.id == "dict" else set(*given)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {evaluate(key): evaluate(value) for key, value in zip(node.keys, node.values, strict=True)}
    for kind, make in ((ast.List, list), (ast.Tuple, tuple), (ast.Set, set)):
        if isinstance(node, kind):
            return make(evaluate(one) for one in node.elts)
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):  # as str() writes these numbers
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name):
        return -evaluate(node.operand)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)[:60]}") from error


def import_custom_modules(cfg: Config, source: str) -> None:
    """Import the modules of ``custom_imports`` that belong to MMLab or this package, and refuse others."""
    modules = (cfg.get("custom_imports") or {}).get("imports") or []
    for module in [modules] if isinstance(modules, str) else modules:
        if module.partition(".")[0] not in PACKAGES and not may_run_code():
            raise UserError(f"the config in {source} imports {module}, which could run code. {REMEDY}")
        import_module(module)


def check_types(cfg: Config, source: str) -> None:
    """Check that each ``type`` in a config is registered in mmengine, a codebase or this package.

    Raises:
        UserError: If a type is not.
    """
    if may_run_code():
        return
    kinds = {kind for node in iter_dicts(cfg._cfg_dict) if isinstance(kind := node.get("type"), str)}
    scopes = {cfg.default_scope, "mmengine", "van_mm", *(kind.partition(".")[0] for kind in kinds if "." in kind)}
    names = set()
    for scope in scopes & {*CODEBASES, "mmengine", "van_mm"}:
        for registry in vars(import_module(f"{scope}.registry")).values():
            if isinstance(registry, Registry):
                registry.import_from_location()
                names |= set(registry.module_dict)
    names |= set(vars(import_module("mmcv.ops")))  # mmdet takes the types of NMS and RoI layers from there
    for kind in sorted(kinds):
        scope, _, name = kind.rpartition(".")
        if name not in names or scope and scope not in PACKAGES:
            raise UserError(f"the config in {source} has the type {kind!r}, which no registry has. {REMEDY}")


def guess_config(checkpoint: dict, source: str) -> Config:
    """Return the experiment that the weights of a checkpoint without a config are of.

    Raises:
        UserError: If they are neither of a VAN nor of a classifier or UperNet with one.
    """
    backbone, rest = split_state_dict(get_state_dict(checkpoint))
    arch = guess_arch(backbone)
    heads = {key.partition(".")[0] for key in rest}
    classes = rest.get("head.fc.weight", torch.empty(0)).shape[0]
    names = list_configs("seg/upernet_*" if "decode_head" in heads else "cls/*")
    suffixes = ("", "_in1k", "_in22k_ft_in1k", "_in22k")
    prefix = "seg/upernet_van" if "decode_head" in heads else "cls/van"
    name = next((name for suffix in suffixes if (name := f"{prefix}_{arch}{suffix}") in names), None)
    is_upernet = any(key.startswith("decode_head.psp_modules.") for key in rest)
    if name is None or heads - {"head"} and not is_upernet:
        raise UserError(f"{source} has no config in it, and its weights are of an unknown model. {REMEDY}")
    cfg = get_config(name)
    if is_upernet:
        return cfg
    if not classes:
        cfg.model.head = None
    elif classes != cfg.model.head.num_classes:  # their names are not those of ImageNet-1K
        for node in iter_dicts([cfg.model, cfg.get("data_preprocessor")]):
            if "num_classes" in node:
                node.num_classes = classes
        cfg.test_dataloader.dataset.metainfo = dict(classes=[f"class {label}" for label in range(classes)])
    return cfg
