"""VAN-B0 with a 28x28 kernel and dilation 4 (table 6: 75.4 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(kernel_size=28, dilation=4))
