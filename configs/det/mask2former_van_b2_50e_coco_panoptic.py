"""Mask2Former with VAN-B2 on COCO panoptic, 50 epochs, batch 8 x 2, 100 queries (section 4.4, table 14: 54.9 PQ)."""

_base_ = ["mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py", "./_base_/van.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.van,
        arch="b2",
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    panoptic_head=dict(in_channels=[64, 128, 320, 512]),
)

# Settings of --demo for this experiment, see van_mm/demo/demo_config.py.
demo = dict(scale=0.125, batch_size=2, iters=380, lr=2e-4)
