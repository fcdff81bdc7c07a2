"""VAN, and the heads and losses that the four codebases lack."""

from van_mm.models.attention import LSK, LSKA, MSCA, DeformableLKA
from van_mm.models.backbones.van import LKA, VAN
from van_mm.models.losses.dice_loss import BinaryDiceLoss
from van_mm.models.utils.fold import fold
from van_mm.ops.library import load_library
from van_mm.registry import MODELS

__all__ = ["LKA", "LSK", "LSKA", "MSCA", "VAN", "BinaryDiceLoss", "DeformableLKA", "fold"]


@MODELS.register_module(name="EDNHead")
def _build_edn_head(**kwargs):
    """Build an :class:`~van_mm.models.decode_heads.edn_head.EDNHead`.

    The class extends mmsegmentation, which is optional, so it is imported only when a config asks for it.
    """
    from van_mm.models.decode_heads.edn_head import EDNHead

    return EDNHead(**kwargs)


load_library()  # the CPU kernels
