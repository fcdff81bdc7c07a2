"""VAN-B6 from ImageNet-22K, fine-tuned on ImageNet-1K at 224x224, 30 epochs (section 4.1, table 8: 86.9 top-1)."""

_base_ = "./_base_/van_in22k_ft_in1k.py"

model = dict(
    backbone=dict(arch="b6", drop_path_rate=0.3, init_cfg=dict(checkpoint="van_mm://b6_in22k")),
    head=dict(in_channels=768),
)
