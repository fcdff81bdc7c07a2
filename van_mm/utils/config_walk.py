"""Visit every dict of a config, and change what occurs at many places of it."""

from collections.abc import Iterator, Sequence

from mmengine.config import ConfigDict


def iter_dicts(node) -> Iterator[ConfigDict]:
    """Yield every dict inside a config, a list or a dict, the outermost first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from iter_dicts(child)


def get_type_name(node: dict) -> str:
    """Return the class name that a config's ``type`` gives, without its scope. Classes are allowed as well as names."""
    kind = node.get("type") or ""
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def find_inner_dataset(node: dict) -> dict:
    """Return the config of the first data set that is no wrapper, such as ``RepeatDataset``."""
    while isinstance(node.get("dataset"), dict) or node.get("datasets"):
        node = node["dataset"] if isinstance(node.get("dataset"), dict) else node["datasets"][0]
    return node


def replace_data_root(node, root: str):
    """Return ``node`` with ``root`` in place of the leading ``data`` of every path. Dicts are changed in place."""
    if isinstance(node, str):
        return f"{root}/{node[5:]}" if node.startswith("data/") else node
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = replace_data_root(value, root)
    elif isinstance(node, (list, tuple)):
        return type(node)(replace_data_root(value, root) for value in node)
    return node


def to_pair(size: int | Sequence[int] | None) -> Sequence[int] | None:
    """Return a single number twice; a pair or None is returned unchanged."""
    return (size, size) if isinstance(size, int) else size


def drop_pretrained(node: ConfigDict) -> None:
    """Remove every ``init_cfg`` and ``pretrained`` from a config, in place."""
    for one in iter_dicts(node):
        for key in ("init_cfg", "pretrained"):
            one.pop(key, None)
