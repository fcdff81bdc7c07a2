"""Attention modules that grew from LKA, each with its paper.

VAN builds one of them in each block: ``VAN(lka_cfg=dict(type="LSKA", kernel_size=23))``. They are registered in
:data:`van_mm.registry.MODELS`. A module takes ``channels`` and the other keys of ``lka_cfg``, has a method
``attention(x)`` that returns the map (N, C, H, W) by which features of the same shape are multiplied, and returns the
product. A method ``init_weights()`` is called after VAN's initialization, for what starts from other values.
"""

from van_mm.models.attention.deformable_lka import DeformableLKA
from van_mm.models.attention.lsk import LSK
from van_mm.models.attention.lska import LSKA
from van_mm.models.attention.msca import MSCA

__all__ = ["LSK", "LSKA", "MSCA", "DeformableLKA"]
