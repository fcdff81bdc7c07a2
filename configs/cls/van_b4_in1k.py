"""VAN-B4 on ImageNet-1K, 300 epochs, batch 8 x 128 (section 4.1, table 7: 84.2 top-1).

B4's drop path is printed nowhere; B3's is taken.
"""

_base_ = "./van_b2_in1k.py"

model = dict(backbone=dict(arch="b4", drop_path_rate=0.2))
