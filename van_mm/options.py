"""``--cfg-options`` that name nothing: found before they are merged, and told with the nearest name."""

import inspect
from difflib import get_close_matches

import mmengine.registry as registries
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from van_mm.errors import UserError

ROOTS = [value for value in vars(registries).values() if isinstance(value, Registry)]
# What a config may have beside the arguments of the Runner, which reads some of them itself.
TOP_LEVEL = {
    "activation_checkpointing", "auto_scale_lr", "compile", "data_preprocessor", "demo", "efficient_conv_bn_eval",
    "find_unused_parameters", "model_wrapper_cfg", "sync_bn", "tta_model", "tta_pipeline",
}  # fmt: skip
LOADER = {"num_batch_per_epoch", *inspect.signature(DataLoader).parameters}


def check_options(cfg: Config, options: dict) -> None:
    """See that every dotted key can mean something.

    A key means something if the config has it, or if what its dict builds takes an argument of that name: the class
    that ``type`` names and those it inherits from, where they pass ``**kwargs`` on. Where the last of them takes any,
    or a type can't be resolved, a key passes unless it is all but a known one; below a key that the config does not
    have, everything passes.

    Args:
        cfg (Config): Which the options are for; its ``default_scope`` is set.
        options (dict): By dotted key, as ``--cfg-options`` gives them.

    Raises:
        UserError: If one means nothing; the message has the nearest names.
    """
    for key in options:
        node = cfg._cfg_dict
        parts = key.split(".")
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
                break  # a value that a dict is to take the place of
            if part in node:
                node = node[part]
                continue
            known = set(node) | {"_delete_", "type"}
            if depth == 0:
                arguments = TOP_LEVEL.union(inspect.signature(Runner).parameters), False
            elif depth == 1 and parts[0].endswith("_dataloader"):
                arguments = LOADER, False
            else:
                arguments = arguments_of(node)
            arguments, more = arguments
            near = get_close_matches(part, known | arguments, n=3, cutoff=0.85 if more else 0.6)
            if part not in known | arguments and (near or not more):
                place = ".".join(parts[:depth]) or "a config"
                hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(sorted(node)[:12])}"
                raise UserError(f"--cfg-options {key}: {place} has no '{part}'; {hint}")
            break


def arguments_of(node: dict) -> tuple[set[str], bool]:
    """Names of the arguments that what a dict builds takes, and whether it takes others too, or may."""
    kind = node.get("type")
    if isinstance(kind, str):
        kind = next((found for root in ROOTS if (found := resolve(root, kind))), None)
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
    return names - {"self"}, True  # the last of them takes any


def resolve(root: Registry, kind: str) -> type | None:
    """What a name stands for in a registry of the scope that runs."""
    try:
        with root.switch_scope_and_registry(None) as registry:
            return registry.get(kind)
    except Exception:  # a registry whose modules do not import here knows nothing
        return None
