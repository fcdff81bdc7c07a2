"""UperNet with VAN-B2 and LSKA (K = 23, arXiv 2309.01439) on ADE20K, 160k iterations, batch 8 x 2: VAN's recipe."""

_base_ = "./upernet_van_b2.py"

model = dict(
    backbone=dict(lka_cfg=dict(type="LSKA", kernel_size=23), init_cfg=dict(checkpoint="van_mm://lska_b2_in1k")),
)
