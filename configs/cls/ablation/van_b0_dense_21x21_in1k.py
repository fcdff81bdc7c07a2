"""VAN-B0 with one dense 21x21 convolution instead of its decomposition (table 3: 76.0 top-1)."""

_base_ = "../van_b0_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(decompose=False)))
