"""A VAN classifier: a linear layer on the pooled features of the last stage.

Configs set the backbone's ``arch``. B0, B5 and B6, whose last stage does not have 512 channels, set the head's
``in_channels``, too.
"""

_base_ = "mmpretrain::_base_/models/van/van_base.py"

model = dict(backbone=dict(_delete_=True, type="van_mm.VAN", out_indices=(3,), drop_path_rate=0.1))
