"""UperNet with VAN-B1 on ADE20K, 160k iterations, batch 8 x 2 (section 4.3; official release: 44.9 mIoU)."""

_base_ = "./_base_/upernet_van.py"

model = dict(backbone=dict(arch="b1", init_cfg=dict(checkpoint="van_mm://b1_in1k")))
