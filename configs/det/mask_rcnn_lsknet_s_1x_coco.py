"""Mask R-CNN with LSKNet-S (arXiv 2303.09030) on COCO, 1x schedule, batch 8 x 2: VAN's recipe."""

_base_ = "./mask_rcnn_van_b1_1x_coco.py"

model = dict(backbone=dict(arch="lsknet_s", init_cfg=dict(checkpoint="van_mm://lsknet_s_in1k")))
