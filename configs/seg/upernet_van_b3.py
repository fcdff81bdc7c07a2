"""UperNet with VAN-B3 on ADE20K, 160k iterations, batch 8 x 2 (section 4.3, table 12: 50.6 mIoU)."""

_base_ = "./_base_/upernet_van.py"

model = dict(backbone=dict(arch="b3", drop_path_rate=0.3, init_cfg=dict(checkpoint="van_mm://b3_in1k")))
