"""SimpleBaseline with LSKNet-T (arXiv 2303.09030) on COCO keypoints, 256x192: VAN's recipe."""

_base_ = "./simplebaseline_van_b2_coco_256x192.py"

model = dict(
    backbone=dict(arch="lsknet_t", init_cfg=dict(checkpoint="van_mm://lsknet_t_in1k")),
    head=dict(in_channels=256),
)
