"""Mask R-CNN with VAN on COCO, 1x schedule, batch 8 x 2 (section 4.2).

Configs set the backbone's ``arch`` and checkpoint. The neck takes the channels of B1 to B4.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/default_runtime.py",
    "./schedule_1x.py",
    "./van.py",
]

model = dict(
    backbone=dict(_delete_=True, **_base_.van, init_cfg=dict(type="Pretrained")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

# Settings of --demo for these experiments, see van_mm/demo/demo_config.py.
demo = dict(iters=240, lr=1e-4)
