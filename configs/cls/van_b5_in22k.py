"""VAN-B5 pre-trained on ImageNet-22K, 90 epochs, batch 64 x 128 (section 4.1, table 8).

The drop path rate is our choice: that of B4, because the authors fine-tune B4 and B5 with the same rate.
"""

_base_ = "./_base_/van_in22k.py"

model = dict(backbone=dict(arch="b5", drop_path_rate=0.1), head=dict(in_channels=768))
