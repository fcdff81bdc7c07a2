"""VAN-B2 with LSKA (K = 23, arXiv 2309.01439) on ImageNet-1K, 300 epochs, batch 8 x 128: VAN's recipe."""

_base_ = "./van_b2_in1k.py"

model = dict(backbone=dict(lka_cfg=dict(type="LSKA", kernel_size=23)))
