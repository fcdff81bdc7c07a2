"""Mask R-CNN with VAN-B2 on COCO, 3x, Swin's multi-scale training, batch 8 x 2 (section 4.2, table 11: 48.8 box AP)."""

_base_ = ["mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py", "./_base_/van.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.van,
        arch="b2",
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

# Settings of --demo for this experiment, see van_mm/demo/demo_config.py.
demo = dict(iters=240, lr=1e-4)
