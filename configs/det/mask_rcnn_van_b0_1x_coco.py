"""Mask R-CNN with VAN-B0 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 10: 40.2 box AP, 37.6 mask AP)."""

_base_ = "./_base_/mask_rcnn_van_1x_coco.py"

model = dict(
    backbone=dict(arch="b0", drop_path_rate=0.1, init_cfg=dict(checkpoint="van_mm://b0_in1k")),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
