"""VAN-B6 pre-trained on ImageNet-22K, 90 epochs, batch 64 x 128 (section 4.1, table 8).

The drop path rate is our choice: 0.1 more than B4's, because the authors fine-tune B6 with 0.1 more than B4.
"""

_base_ = "./_base_/van_in22k.py"

model = dict(backbone=dict(arch="b6", drop_path_rate=0.2), head=dict(in_channels=768))
