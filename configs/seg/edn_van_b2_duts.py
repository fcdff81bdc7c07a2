"""EDN with VAN-B2 on DUTS, 30 epochs, batch 24 (section 4.7, table 17: 0.919 F_max on DUTS-TE)."""

_base_ = "./_base_/edn_van.py"

model = dict(backbone=dict(arch="b2", init_cfg=dict(checkpoint="van_mm://b2_in1k")))
