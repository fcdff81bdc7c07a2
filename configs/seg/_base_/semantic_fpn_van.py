"""Semantic FPN with VAN on ADE20K, 40k iterations, batch 8 x 4 (section 4.3).

Configs set the backbone's ``arch`` and checkpoint. The neck takes the channels of B1 to B4.

All sizes have a drop path rate of 0.1, as in the VAN-Segmentation release of February 2022 (van.py:295-321 at commit
23cd0ed), which already printed the paper's mIoU. Its current files, of July 2022, have 0.2 for B0 to B2 and 0.3 for B3.
"""

_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "./ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_40k.py",
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type="van_mm.VAN",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(type="Pretrained"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
)

train_dataloader = dict(batch_size=4)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=40000)]
auto_scale_lr = dict(enable=False, base_batch_size=32)
