"""Semantic FPN with VAN-B3 on ADE20K, 40k iterations, batch 8 x 4 (section 4.3, table 12: 48.1 mIoU)."""

_base_ = "./_base_/semantic_fpn_van.py"

model = dict(backbone=dict(arch="b3", init_cfg=dict(checkpoint="van_mm://b3_in1k")))
