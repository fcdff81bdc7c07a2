"""A VAN classifier: a linear layer on the pooled features of the last stage.

The linear layer starts from a normal distribution of standard deviation 0.02, truncated, with zero bias, as in the
official release (models/van.py:195-199). Configs set the backbone's ``arch``. B0, B5 and B6, whose last stage does not
have 512 channels, set the head's ``in_channels``, too.
"""

_base_ = "mmpretrain::_base_/models/van/van_base.py"

model = dict(
    backbone=dict(_delete_=True, type="van_mm.VAN", out_indices=(3,), drop_path_rate=0.1),
    head=dict(init_cfg=dict(_delete_=True, type="TruncNormal", layer="Linear", std=0.02, bias=0.0)),
)
