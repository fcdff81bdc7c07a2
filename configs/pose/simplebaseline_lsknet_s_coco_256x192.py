"""SimpleBaseline with LSKNet-S (arXiv 2303.09030) on COCO keypoints, 256x192: VAN's recipe."""

_base_ = "./simplebaseline_van_b2_coco_256x192.py"

model = dict(backbone=dict(arch="lsknet_s", init_cfg=dict(checkpoint="van_mm://lsknet_s_in1k")))
