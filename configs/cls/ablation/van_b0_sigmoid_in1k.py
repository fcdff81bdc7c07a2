"""VAN-B0 with a sigmoid on the attention map (table 3: 75.2 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(sigmoid=True)))
