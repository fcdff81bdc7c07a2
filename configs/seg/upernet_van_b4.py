"""UperNet with VAN-B4 on ADE20K, 160k iterations, batch 8 x 2 (section 4.3, table 12: 52.2 mIoU).

The weights are the backbone of the ImageNet-1K classifier that OpenMMLab published. The official config has 4 images
per GPU, a batch of 32; this config has the paper's batch of 16.
"""

_base_ = "./_base_/upernet_van.py"

model = dict(backbone=dict(arch="b4", drop_path_rate=0.4, init_cfg=dict(checkpoint="van_mm://b4_in1k_cls")))
