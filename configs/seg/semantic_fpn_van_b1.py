"""Semantic FPN with VAN-B1 on ADE20K, 40k iterations, batch 8 x 4 (section 4.3, table 12: 42.9 mIoU)."""

_base_ = "./_base_/semantic_fpn_van.py"

model = dict(backbone=dict(arch="b1", init_cfg=dict(checkpoint="van_mm://b1_in1k")))
