"""VAN-B4 pre-trained on ImageNet-22K, 90 epochs, batch 64 x 128 (section 4.1, table 8).

The drop path rate, 0.1, is that of the authors' ImageNet-22k/train.sh.
"""

_base_ = "./_base_/van_in22k.py"

model = dict(backbone=dict(arch="b4", drop_path_rate=0.1))
