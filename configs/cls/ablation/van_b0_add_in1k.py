"""VAN-B0 with the attention map added to the input instead of multiplied (figure 3c; table 3: 74.6 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(fusion="add")))
