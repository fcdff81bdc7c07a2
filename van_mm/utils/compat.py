"""Make mmengine's checkpoints load under PyTorch 2.6 and newer.

PyTorch 2.6 loads checkpoints with ``weights_only=True`` by default. This mode rejects the ``HistoryBuffer`` of the
message hub and its NumPy arrays, which mmengine 0.10.7 and older write into every checkpoint (open-mmlab/mmengine
issues 1650 and 1655), and the ``argparse.Namespace`` in the files that VAN's authors published, which timm writes.
Importing this module adds these types to PyTorch's allow-list, and no other types. The first part can be removed when
mmengine does the same.
"""

import argparse
import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def getattr_of_history_buffer(owner: type, name: str):
    """Replace ``builtins.getattr`` while a checkpoint is read.

    mmengine pickles references to the statistics methods of ``HistoryBuffer``, which pickle restores by ``getattr``.

    Args:
        owner (type): Class to look in.
        name (str): Attribute to look up.

    Returns:
        Callable: The method ``mean``, ``max``, ``min`` or ``current`` of ``HistoryBuffer``.

    Raises:
        pickle.UnpicklingError: If the checkpoint asks for any other attribute.
    """
    if owner is not HistoryBuffer or name not in ("mean", "max", "min", "current"):
        raise pickle.UnpicklingError(f"checkpoint asks for getattr({owner!r}, {name!r}), which is not allowed")
    return getattr(HistoryBuffer, name)


def list_allowed_globals() -> dict[str, object]:
    """Return the globals that mmengine's and timm's checkpoints refer to, besides those of tensors.

    A Namespace only holds attributes. Restoring one sets them and runs no code.

    Returns:
        dict[str, object]: The object by its qualified name in the file.
    """
    multiarray = (np.core if np.lib.NumpyVersion(np.__version__) < "2.0.0" else np._core).multiarray
    allowed = {"builtins.getattr": getattr_of_history_buffer}
    for core in ("core", "_core"):  # NumPy 2 renamed the module, and files contain either name
        allowed[f"numpy.{core}.multiarray._reconstruct"] = multiarray._reconstruct
        allowed[f"numpy.{core}.multiarray.scalar"] = multiarray.scalar
    dtypes = {type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "?", "U1")}
    types = {HistoryBuffer, argparse.Namespace, np.ndarray, np.dtype, *dtypes}
    return allowed | {f"{kind.__module__}.{kind.__qualname__}": kind for kind in types}


ALLOWED_GLOBALS = list_allowed_globals()
if hasattr(torch.serialization, "add_safe_globals"):  # PyTorch 2.4 and newer
    torch.serialization.add_safe_globals([(value, name) for name, value in ALLOWED_GLOBALS.items()])
