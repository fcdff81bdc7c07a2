"""Visual Attention Network (VAN, arXiv 2202.09741) for mmpretrain, mmdet, mmsegmentation and mmpose.

Importing the package registers ``van_mm.VAN``, and plain ``VAN`` in mmdet, mmsegmentation and mmpose where they are
installed. mmpretrain has a ``VAN`` of its own, which stays as it is. Two more things happen once per process, because
mmengine cannot read checkpoints without them: :mod:`van_mm.utils.compat` extends PyTorch's allow-list of checkpoint
types, and :mod:`van_mm.checkpoints.io` replaces mmengine's readers of files and URLs by ones that never run code.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec

from van_mm.utils.home import ensure_home

ensure_home()  # before mmengine is imported

# ruff: noqa: E402
from van_mm.apis.backbone_swap import swap_backbone
from van_mm.apis.configs import get_config, list_configs
from van_mm.checkpoints.loading import load_van_weights
from van_mm.models import VAN, fold
from van_mm.ops.library import load_library
from van_mm.version import __version__

__all__ = ["VAN", "__version__", "fold", "get_config", "list_configs", "load_van_weights", "swap_backbone"]


def _register_plain_name() -> None:
    """Register ``VAN`` in each installed codebase that has no VAN of its own; warn about a codebase that is broken."""
    for codebase in ("mmdet", "mmseg", "mmpose"):
        try:
            if find_spec(codebase) is None:
                continue
            models = import_module(f"{codebase}.registry").MODELS
        except Exception as error:  # a broken codebase raises anything, and the others work without it
            warnings.warn(
                f"{codebase} does not import ({type(error).__name__}: {error}), so VAN is not registered in it. "
                "`python -m van_mm.utils.check_env` shows which versions work together.",
                stacklevel=2,
            )
            continue
        if "VAN" not in models.module_dict:
            models.register_module(name="VAN", module=VAN)


_register_plain_name()
load_library()
