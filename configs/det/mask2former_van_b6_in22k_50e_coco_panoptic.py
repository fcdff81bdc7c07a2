"""Mask2Former with VAN-B6 from ImageNet-22K on COCO panoptic, 200 queries (section 4.4, table 14: 58.2 PQ).

The drop path rate of 0.3 is our choice, because mmdet's Mask2Former with Swin has it for all sizes.
"""

_base_ = "./mask2former_van_b2_50e_coco_panoptic.py"

model = dict(
    backbone=dict(arch="b6", init_cfg=dict(checkpoint="van_mm://b6_in22k")),
    panoptic_head=dict(num_queries=200, in_channels=[96, 192, 384, 768]),
)
