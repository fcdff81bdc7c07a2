"""VAN-B6 pre-trained on ImageNet-22K, 90 epochs, batch 64 x 128 (section 4.1, table 8)."""

_base_ = "./_base_/van_in22k.py"

model = dict(backbone=dict(arch="b6"), head=dict(in_channels=768))
