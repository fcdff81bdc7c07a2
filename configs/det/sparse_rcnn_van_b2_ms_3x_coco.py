"""Sparse R-CNN with VAN-B2 on COCO, 3x, multi-scale training, 300 proposals, batch 8 x 2 (section 4.2).

Section 4.2 names Sparse R-CNN, but table 11 has no row for it.
"""

_base_ = [
    "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py",
    "./_base_/van.py",
    "./_base_/adamw.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.van,
        arch="b2",
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = _base_.adamw  # merged with the gradient clipping of the upstream config
