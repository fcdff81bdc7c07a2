"""UperNet with VAN-B5 from ImageNet-22K on ADE20K, 160k iterations (section 4.3, table 13: 53.9 mIoU)."""

_base_ = "./_base_/upernet_van.py"

model = dict(
    backbone=dict(arch="b5", drop_path_rate=0.4, init_cfg=dict(checkpoint="van_mm://b5_in22k")),
    decode_head=dict(in_channels=[96, 192, 480, 768]),
    auxiliary_head=dict(in_channels=480),
)
