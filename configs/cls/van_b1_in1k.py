"""VAN-B1 on ImageNet-1K, 300 epochs, batch 8 x 128 (section 4.1, table 7: 81.1 top-1)."""

_base_ = "./_base_/van_in1k.py"

model = dict(backbone=dict(arch="b1"))
