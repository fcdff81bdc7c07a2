"""UperNet with VAN-B4 on ADE20K, 160k iterations, batch 8 x 2 (section 4.3, table 12: 52.2 mIoU).

No ImageNet-1K weights of B4 are published. Train configs/cls/van_b4_in1k.py first; its last checkpoint is used here.
"""

_base_ = "./_base_/upernet_van.py"

model = dict(
    backbone=dict(arch="b4", drop_path_rate=0.4, init_cfg=dict(checkpoint="work_dirs/van_b4_in1k/epoch_300.pth"))
)
