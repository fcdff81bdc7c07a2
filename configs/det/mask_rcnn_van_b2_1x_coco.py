"""Mask R-CNN with VAN-B2 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 10: 46.4 box AP, 41.8 mask AP)."""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "./_base_/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="van_mm.VAN",
        arch="b2",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

# What --demo takes instead of its defaults, see van_mm/demo/__init__.py.
demo = dict(iters=240, lr=1e-4)
