"""RetinaNet with VAN-B2 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 9: 44.9 box AP)."""

_base_ = "./_base_/retinanet_van_1x_coco.py"

model = dict(backbone=dict(arch="b2", init_cfg=dict(checkpoint="van_mm://b2_in1k")))
