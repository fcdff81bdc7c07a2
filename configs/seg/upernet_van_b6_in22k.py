"""UperNet with VAN-B6 from ImageNet-22K on ADE20K, 160k iterations (section 4.3, table 13: 54.7 mIoU)."""

_base_ = "./_base_/upernet_van.py"

model = dict(
    backbone=dict(arch="b6", drop_path_rate=0.5, init_cfg=dict(checkpoint="van_mm://b6_in22k")),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
