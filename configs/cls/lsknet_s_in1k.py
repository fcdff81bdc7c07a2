"""LSKNet-S (arXiv 2303.09030) on ImageNet-1K, 300 epochs, batch 8 x 128: VAN's recipe."""

_base_ = "./van_b1_in1k.py"

model = dict(backbone=dict(arch="lsknet_s"))
