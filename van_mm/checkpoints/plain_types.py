"""Convert what mmengine keeps in checkpoints to types that PyTorch's weights-only reader knows, and back."""

from collections.abc import Mapping

import numpy as np
from mmengine.logging import HistoryBuffer
from torch import Tensor, from_numpy


def to_plain_types(value: object) -> object:
    """Return a copy of nested containers in which only tensors and Python's own types are left.

    Args:
        value (object): Content of a checkpoint, such as its ``meta`` or ``message_hub``. NumPy's scalars become
            numbers and its arrays lists, because that is what the configs of data sets hold in their place. A
            ``HistoryBuffer`` becomes a dict of tensors, see :func:`restore_history_buffers`. Objects of other types
            stay as they are.
    """
    if isinstance(value, HistoryBuffer):
        history, counts = (from_numpy(values.copy()) for values in value.data)
        return dict(log_history=history, count_history=counts, max_length=value.max_length)
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return to_plain_types(value.tolist())
    if isinstance(value, Mapping):
        return {to_plain_types(key): to_plain_types(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(to_plain_types(child) for child in value)
    if isinstance(value, str):
        return str(value)
    return value


def restore_history_buffers(message_hub: dict) -> dict:
    """Return the state of a message hub with the ``HistoryBuffer`` objects that :func:`to_plain_types` has replaced."""
    scalars = dict(message_hub.get("log_scalars", {}))
    for name, value in scalars.items():
        if isinstance(value, dict) and "log_history" in value:
            histories = (value[key].cpu().numpy() for key in ("log_history", "count_history"))
            scalars[name] = HistoryBuffer(*histories, value["max_length"])
    return dict(message_hub, log_scalars=scalars)
