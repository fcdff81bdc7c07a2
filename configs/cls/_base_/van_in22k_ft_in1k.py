"""VAN from ImageNet-22K, fine-tuned on ImageNet-1K at 224x224, 30 epochs, batch 16 x 32 (section 4.1).

The paper gives the length and the image size. Everything else is from ImageNet-22k/finetune.sh in the authors'
ImageNet-22K code (github.com/LGYoung/VAN-Classification): no warm-up, no mixup, no CutMix, hardly any weight decay,
drop path 0.2 for B4 and B5 and 0.3 for B6. The script also passes --head_init_scale 0.001, which its code does not use.
"""

_base_ = "./van_in22k_common.py"

model = dict(backbone=dict(drop_path_rate=0.2, init_cfg=dict(type="Pretrained")), train_cfg=None)

train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=5e-5, weight_decay=1e-8))
train_cfg = dict(max_epochs=30)
param_scheduler = [
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=0, end=30, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=512)
