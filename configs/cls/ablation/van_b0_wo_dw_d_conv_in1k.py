"""VAN-B0 without the dilated depth-wise convolution of LKA (table 3: 74.1 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(dw_d_conv=False)))
