"""VAN-B4 without LayerScale on ImageNet-1K (table 7: 84.2 top-1)."""

_base_ = "./van_b4_in1k.py"

model = dict(backbone=dict(layer_scale_init_value=0.0))
