"""Mask2Former with VAN-B2 on COCO panoptic, 50 epochs, batch 8 x 2 (section 4.4, table 14: 54.9 PQ)."""

_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="van_mm.VAN",
        arch="b2",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    panoptic_head=dict(in_channels=[64, 128, 320, 512]),
)

# What --demo takes instead of its defaults, see van_mm/demo/__init__.py.
demo = dict(scale=0.125, batch_size=2, iters=380, lr=2e-4)
