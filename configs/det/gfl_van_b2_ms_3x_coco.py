"""GFL with VAN-B2 on COCO, 3x, Swin's multi-scale training, batch 8 x 2 (section 4.2, table 11: 50.8 box AP).

It differs from the ATSS experiment only in the head, which predicts a distribution for each side of a box and uses the
box quality as its class score.
"""

_base_ = "./atss_van_b2_ms_3x_coco.py"

model = dict(
    type="GFL",
    bbox_head=dict(
        _delete_=True,
        type="GFLHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type="DistributionFocalLoss", loss_weight=0.25),
        reg_max=16,
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    ),
)
