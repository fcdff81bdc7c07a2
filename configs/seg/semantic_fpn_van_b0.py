"""Semantic FPN with VAN-B0 on ADE20K, 40k iterations, batch 8 x 4 (section 4.3, table 12: 38.5 mIoU)."""

_base_ = "./_base_/semantic_fpn_van.py"

model = dict(
    backbone=dict(arch="b0", init_cfg=dict(checkpoint="van_mm://b0_in1k")),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
