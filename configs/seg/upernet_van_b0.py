"""UperNet with VAN-B0 on ADE20K, 160k iterations, batch 8 x 2 (section 4.3; official release: 41.1 mIoU)."""

_base_ = "./_base_/upernet_van.py"

model = dict(
    backbone=dict(arch="b0", init_cfg=dict(checkpoint="van_mm://b0_in1k")),
    decode_head=dict(in_channels=[32, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160),
)
