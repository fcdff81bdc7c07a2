"""Mask R-CNN with VAN-B2 and LSKA (K = 23, arXiv 2309.01439) on COCO, 1x schedule, batch 8 x 2: VAN's recipe."""

_base_ = "./mask_rcnn_van_b2_1x_coco.py"

model = dict(
    backbone=dict(
        lka_cfg=dict(type="LSKA", kernel_size=23), drop_path_rate=0.1, init_cfg=dict(checkpoint="van_mm://lska_b2_in1k")
    ),
)
