"""RetinaNet with VAN-B0 on COCO, 1x schedule, batch 8 x 2 (section 4.2, table 9: 38.8 box AP)."""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "./_base_/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="van_mm.VAN",
        arch="b0",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b0_in1k"),
    ),
    neck=dict(in_channels=[32, 64, 160, 256]),
)

# What --demo takes instead of its defaults, see van_mm/demo/__init__.py.
demo = dict(iters=600)
