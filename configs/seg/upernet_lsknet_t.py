"""UperNet with LSKNet-T (arXiv 2303.09030) on ADE20K, 160k iterations, batch 8 x 2: VAN's recipe."""

_base_ = "./upernet_van_b0.py"

model = dict(backbone=dict(arch="lsknet_t", init_cfg=dict(checkpoint="van_mm://lsknet_t_in1k")))
