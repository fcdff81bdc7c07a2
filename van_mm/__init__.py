"""The Visual Attention Network (arXiv 2202.09741) for mmpretrain, mmdet, mmsegmentation and mmpose.

Importing the package registers ``van_mm.VAN``, and plain ``VAN`` in mmdet, mmsegmentation and mmpose where they
are installed; mmpretrain has a ``VAN`` of its own, which stays what it is.
"""

from importlib import import_module
from importlib.util import find_spec

from . import compat, ops  # noqa: F401  compat lets torch load what mmengine saves
from .configs import get_config, list_configs
from .models import VAN, fold
from .swap import swap_backbone
from .weights import load_van_weights

__version__ = "0.1.0"
__all__ = ["VAN", "__version__", "fold", "get_config", "list_configs", "load_van_weights", "swap_backbone"]


def _register_plain_name() -> None:
    for codebase in ("mmdet", "mmseg", "mmpose"):
        if find_spec(codebase) is None:
            continue
        try:
            models = import_module(f"{codebase}.registry").MODELS
        except (ImportError, AssertionError):  # broken or of an unfit version: `van_mm.check_env` tells which
            continue
        if "VAN" not in models.module_dict:
            models.register_module(name="VAN", module=VAN)


_register_plain_name()
ops.load()
