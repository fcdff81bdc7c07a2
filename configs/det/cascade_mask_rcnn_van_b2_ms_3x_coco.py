"""Cascade Mask R-CNN with VAN-B2 on COCO, 3x, multi-scale training, batch 8 x 2 (section 4.2, table 11: 52.0 box AP).

The box heads are those of Swin and ConvNeXt: four convolutions, one fully connected layer, SyncBN and GIoU loss. The
model has the 84 M parameters of table 11 only with these heads. mmdet's ConvNeXt config provides them and Swin's
multi-scale training.
"""

_base_ = [
    "mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py",
    "./_base_/van.py",
    "./_base_/adamw.py",
]

# The upstream config imports mmpretrain.models, which only ConvNeXt needs.
custom_imports = dict(_delete_=True, imports=["van_mm"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.van,
        arch="b2",
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(_delete_=True, **_base_.adamw)

# Settings of --demo for this experiment, see van_mm/demo/demo_config.py.
demo = dict(iters=240, lr=1e-4)
