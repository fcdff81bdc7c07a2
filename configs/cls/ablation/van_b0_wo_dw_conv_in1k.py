"""VAN-B0 without the depth-wise convolution of LKA (table 3: 74.9 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(dw_conv=False)))
