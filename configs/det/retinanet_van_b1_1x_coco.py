"""RetinaNet with VAN-B1 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 9: 42.3 box AP)."""

_base_ = "./_base_/retinanet_van_1x_coco.py"

model = dict(backbone=dict(arch="b1", drop_path_rate=0.1, init_cfg=dict(checkpoint="van_mm://b1_in1k")))
