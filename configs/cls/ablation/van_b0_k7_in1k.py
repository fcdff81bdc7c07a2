"""VAN-B0 with a 7x7 kernel and dilation 2 (table 6: 74.8 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(kernel_size=7, dilation=2))
