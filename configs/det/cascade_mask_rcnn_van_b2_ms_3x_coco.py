"""Cascade Mask R-CNN with VAN-B2 on COCO, 3x, Swin's multi-scale training (section 4.2, table 11: 52.0 box AP).

The box heads are Swin's and ConvNeXt's: four convolutions, one fully connected layer, SyncBN and GIoU loss. Only with
them does the model have the 84 M parameters of the table; ConvNeXt's config brings them, and the same pipeline.
"""

_base_ = "mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py"

custom_imports = dict(_delete_=True, imports=["van_mm"], allow_failed_imports=False)
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
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}),
)
demo = dict(iters=240, lr=1e-4)
