"""Visual Attention Network (VAN, arXiv 2202.09741) for mmpretrain, mmdet, mmsegmentation and mmpose.

Importing the package takes no time, because PyTorch, mmengine and the codebases are imported when they are needed. It
has three effects on modules that are imported before or after it:

- plain ``VAN`` is registered in mmdet, mmseg and mmpose. ``van_mm.VAN`` needs no import, because mmengine imports
  :mod:`van_mm.registry` when it meets the scope. mmpretrain has a ``VAN`` of its own, which stays as it is;
- :mod:`van_mm.utils.compat` extends PyTorch's allow-list of checkpoint types, without which PyTorch does not read
  mmengine's checkpoints;
- :mod:`van_mm.checkpoints.io` replaces mmengine's readers of files and URLs by ones that never run code.
"""

from functools import partial
from importlib import import_module

from van_mm.utils.home import ensure_home
from van_mm.utils.import_hooks import run_after_import
from van_mm.version import __version__

# The module of each name that users import from here.
_MODULES = {
    "VAN": "van_mm.models",
    "fold": "van_mm.models",
    "get_config": "van_mm.apis.configs",
    "list_configs": "van_mm.apis.configs",
    "load": "van_mm.apis.inferencer",
    "load_van_weights": "van_mm.checkpoints.loading",
    "swap_backbone": "van_mm.apis.backbone_swap",
    "use_data": "van_mm.apis.own_data",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    """Import a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'van_mm' has no attribute '{name}'")
    globals()[name] = value = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


def _register_plain_name(codebase: str) -> None:
    """Register ``VAN`` in a codebase that has no VAN of its own."""
    models = import_module(f"{codebase}.registry").MODELS
    if "VAN" not in models.module_dict:
        models.register_module(name="VAN", module=import_module("van_mm.models").VAN)


ensure_home()  # before mmengine is imported
run_after_import("torch", partial(import_module, "van_mm.utils.compat"))
run_after_import("mmengine.runner.checkpoint", partial(import_module, "van_mm.checkpoints.io"))
for _codebase in ("mmdet", "mmseg", "mmpose"):
    run_after_import(f"{_codebase}.registry", partial(_register_plain_name, _codebase))
