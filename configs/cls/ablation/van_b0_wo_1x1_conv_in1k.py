"""VAN-B0 without the 1x1 convolution of LKA (table 3: 74.6 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(pw_conv=False)))
