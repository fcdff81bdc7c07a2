"""Mask R-CNN with VAN-B1 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 10: 42.6 box AP, 38.9 mask AP)."""

_base_ = "./_base_/mask_rcnn_van_1x_coco.py"

model = dict(backbone=dict(arch="b1", drop_path_rate=0.1, init_cfg=dict(checkpoint="van_mm://b1_in1k")))
