"""Mask2Former with VAN-B6 from ImageNet-22K on COCO panoptic, 200 queries (section 4.4, table 14: 58.2 PQ)."""

_base_ = "./mask2former_van_b2_50e_coco_panoptic.py"

model = dict(
    backbone=dict(arch="b6", init_cfg=dict(checkpoint="van_mm://b6_in22k")),
    panoptic_head=dict(num_queries=200, in_channels=[96, 192, 384, 768]),
)
