"""UperNet with VAN-B2 on ADE20K, 160k iterations, batch 8 x 2 (section 4.3, table 12: 50.1 mIoU)."""

_base_ = "./_base_/upernet_van.py"

model = dict(backbone=dict(arch="b2", init_cfg=dict(checkpoint="van_mm://b2_in1k")))
