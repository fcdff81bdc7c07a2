"""VAN-B4 on ImageNet-1K, 300 epochs, batch 8 x 128 (section 4.1, table 7: 84.2 top-1).

The drop path rate of B4 is not published. That of B3 is our choice, because it is the rate of the next smaller size.
"""

_base_ = "./_base_/van_in1k.py"

model = dict(backbone=dict(arch="b4", drop_path_rate=0.2))
