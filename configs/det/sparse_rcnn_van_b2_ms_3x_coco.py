"""Sparse R-CNN with VAN-B2 on COCO, 3x, multi-scale training, 300 proposals, batch 8 x 2 (section 4.2).

Section 4.2 names it, table 11 has no row for it.
"""

_base_ = "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py"

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
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}),
)
