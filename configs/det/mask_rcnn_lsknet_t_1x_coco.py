"""Mask R-CNN with LSKNet-T (arXiv 2303.09030) on COCO, 1x schedule, batch 8 x 2: VAN's recipe."""

_base_ = "./mask_rcnn_van_b0_1x_coco.py"

model = dict(backbone=dict(arch="lsknet_t", init_cfg=dict(checkpoint="van_mm://lsknet_t_in1k")))
