from van_mm.registry import MODELS

from .fold import fold
from .losses import BinaryDiceLoss
from .van import LKA, VAN

__all__ = ["LKA", "VAN", "BinaryDiceLoss", "fold"]


@MODELS.register_module(name="EDNHead")
def _edn_head(**kwargs):
    """Build an :class:`~van_mm.models.edn.EDNHead`; mmsegmentation, which it extends, is imported only then."""
    from .edn import EDNHead

    return EDNHead(**kwargs)
