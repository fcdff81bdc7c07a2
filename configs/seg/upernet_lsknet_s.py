"""UperNet with LSKNet-S (arXiv 2303.09030) on ADE20K, 160k iterations, batch 8 x 2: VAN's recipe."""

_base_ = "./upernet_van_b1.py"

model = dict(backbone=dict(arch="lsknet_s", init_cfg=dict(checkpoint="van_mm://lsknet_s_in1k")))
