"""UperNet with VAN-B4 from ImageNet-22K on ADE20K, 160k iterations (section 4.3; official release: 53.5 mIoU).

The official config has 4 images per GPU, a batch of 32; this config has the paper's batch of 16.
"""

_base_ = "./_base_/upernet_van.py"

model = dict(backbone=dict(arch="b4", drop_path_rate=0.4, init_cfg=dict(checkpoint="van_mm://b4_in22k")))
