"""EDN with VAN-B1 on DUTS, 30 epochs, batch 24 (section 4.7, table 17: 0.912 F_max on DUTS-TE)."""

_base_ = "./_base_/edn_van.py"

model = dict(backbone=dict(arch="b1", init_cfg=dict(checkpoint="van_mm://b1_in1k")))
