"""SimpleBaseline with VAN-B2 and LSKA (K = 23, arXiv 2309.01439) on COCO keypoints, 256x192: VAN's recipe."""

_base_ = "./simplebaseline_van_b2_coco_256x192.py"

model = dict(
    backbone=dict(lka_cfg=dict(type="LSKA", kernel_size=23), init_cfg=dict(checkpoint="van_mm://lska_b2_in1k")),
)
