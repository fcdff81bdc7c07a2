"""VAN-B0 with a 14x14 kernel and dilation 3 (table 6: 75.3 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(kernel_size=14, dilation=3))
