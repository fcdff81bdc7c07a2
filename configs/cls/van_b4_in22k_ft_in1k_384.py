"""VAN-B4 from ImageNet-22K, fine-tuned on ImageNet-1K at 384x384, 30 epochs (section 4.1, table 8: 86.6 top-1)."""

_base_ = "./_base_/van_in22k_ft_in1k_384.py"

model = dict(backbone=dict(arch="b4", init_cfg=dict(checkpoint="van_mm://b4_in22k")))
