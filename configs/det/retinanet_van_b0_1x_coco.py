"""RetinaNet with VAN-B0 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 9: 38.8 box AP)."""

_base_ = "./_base_/retinanet_van_1x_coco.py"

model = dict(
    backbone=dict(arch="b0", drop_path_rate=0.1, init_cfg=dict(checkpoint="van_mm://b0_in1k")),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
