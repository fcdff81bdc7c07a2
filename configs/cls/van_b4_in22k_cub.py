"""VAN-B4 from ImageNet-22K on CUB-200-2011, 100 epochs, batch 2 x 8 (section 4.6, table 16: 91.3 top-1).

The paper gives the optimizer, learning rate, weight decay, batch size, length and schedule. The image size, a crop of
384x384 from images resized to 510, the warm-up, ImageNet's mean and standard deviation, and cross entropy without label
smoothing are mmpretrain's for this data set. The drop path rate is our choice: that of fine-tuning B4 on ImageNet-1K.
"""

_base_ = [
    "./_base_/van.py",
    "mmpretrain::_base_/datasets/cub_bs8_384.py",
    "mmpretrain::_base_/schedules/cub_bs64.py",
    "mmpretrain::_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        arch="b4",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b4_in22k"),
    ),
    head=dict(num_classes=200, loss=dict(_delete_=True, type="CrossEntropyLoss", loss_weight=1.0)),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=5e-5, betas=(0.9, 0.999), weight_decay=5e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
auto_scale_lr = dict(base_batch_size=16)

# Settings of --demo for this experiment, see van_mm/demo/demo_config.py.
demo = dict(scale=64 / 384)
