"""Mask R-CNN with VAN-B3 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 10: 48.3 box AP, 43.4 mask AP)."""

_base_ = "./_base_/mask_rcnn_van_1x_coco.py"

model = dict(backbone=dict(arch="b3", init_cfg=dict(checkpoint="van_mm://b3_in1k")))
