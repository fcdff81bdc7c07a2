"""Mask R-CNN with VAN-B2 on COCO, 3x, Swin's multi-scale training, batch 8 x 2 (section 4.2, table 11: 48.8 box AP)."""

_base_ = "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py"

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
demo = dict(iters=240, lr=1e-4)
