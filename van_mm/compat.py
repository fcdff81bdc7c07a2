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


def allow_mmengine_checkpoints() -> None:
    """Put the types of mmengine's checkpoints on torch's allow-list (nothing to do before torch 2.6)."""
    if not hasattr(torch.serialization, "add_safe_globals"):
        return
    multiarray = (np.core if np.lib.NumpyVersion(np.__version__) < "2.0.0" else np._core).multiarray
    dtypes = {type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "?", "U1")}
    allowed = [HistoryBuffer, np.ndarray, np.dtype, *dtypes, (_getattr, "builtins.getattr")]
    for name in ("_reconstruct", "scalar"):  # numpy 2 moved the module; files name either place
        function = getattr(multiarray, name)
        allowed += [(function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    torch.serialization.add_safe_globals(allowed)


allow_mmengine_checkpoints()
