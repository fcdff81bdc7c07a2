"""ATSS with VAN-B2 on COCO, 3x, Swin's multi-scale training, batch 8 x 2 (section 4.2, table 11: 50.2 box AP)."""

_base_ = ["mmdet::atss/atss_r50_fpn_1x_coco.py", "./_base_/van.py", "./_base_/adamw.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.van,
        arch="b2",
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

# The short side is resized to one of eleven lengths from 480 to 800. Half of the images are resized to 400, 500 or 600
# and cropped before that.
resize = dict(type="RandomChoiceResize", scales=[(short, 1333) for short in range(480, 801, 32)], keep_ratio=True)
train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomChoice",
        transforms=[
            [resize],
            [
                dict(type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
                resize,
            ],
        ],
    ),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(_delete_=True, **_base_.adamw)
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
