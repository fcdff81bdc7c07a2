"""VAN-B2 without LayerScale on ImageNet-1K (table 7: 82.9 top-1)."""

_base_ = "./van_b2_in1k.py"

model = dict(backbone=dict(layer_scale_init_value=0.0))
