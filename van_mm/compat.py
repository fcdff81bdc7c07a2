"""Patches that let mmengine 0.10.7 work with a torch that moved on. One place, each with its versions.

torch >= 2.6 loads checkpoints with ``weights_only=True`` and refuses what mmengine <= 0.10.7 puts into its own
(open-mmlab/mmengine issues 1650 and 1655): the message hub's ``HistoryBuffer`` and the numpy arrays in it.
They are put on torch's allow-list here, and nothing else is. Drop this module when mmengine does it itself.
"""

import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def _getattr(owner: type, name: str):
    """What ``builtins.getattr`` may do in a checkpoint: name one of HistoryBuffer's statistics methods."""
    if owner is not HistoryBuffer or name not in ("mean", "max", "min", "current"):
        raise pickle.UnpicklingError(f"checkpoint asks for getattr({owner!r}, {name!r}), which is not allowed")
    return getattr(HistoryBuffer, name)


def _allowed() -> dict[str, object]:
    """Everything mmengine's checkpoints hold besides tensors: the name in the file, and what it stands for."""
    multiarray = (np.core if np.lib.NumpyVersion(np.__version__) < "2.0.0" else np._core).multiarray
    allowed = {"builtins.getattr": _getattr}
    for core in ("core", "_core"):  # numpy 2 moved the module; files name either place
        allowed[f"numpy.{core}.multiarray._reconstruct"] = multiarray._reconstruct
        allowed[f"numpy.{core}.multiarray.scalar"] = multiarray.scalar
    dtypes = {type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "?", "U1")}
    types = {HistoryBuffer, np.ndarray, np.dtype, *dtypes}
    return allowed | {f"{kind.__module__}.{kind.__qualname__}": kind for kind in types}


ALLOWED = _allowed()
if hasattr(torch.serialization, "add_safe_globals"):
    torch.serialization.add_safe_globals([(value, name) for name, value in ALLOWED.items()])
