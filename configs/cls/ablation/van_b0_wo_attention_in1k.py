"""VAN-B0 without attention: LKA returns the map instead of input times map (figure 3b; table 3: 74.3 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(fusion="none")))
