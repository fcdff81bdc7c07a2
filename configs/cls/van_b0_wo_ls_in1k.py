"""VAN-B0 without LayerScale on ImageNet-1K (table 7: 75.2 top-1)."""

_base_ = "./van_b0_in1k.py"

model = dict(backbone=dict(layer_scale_init_value=0.0))
