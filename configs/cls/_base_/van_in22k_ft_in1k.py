"""VAN from ImageNet-22K, fine-tuned on ImageNet-1K at 224x224, 30 epochs, batch 8 x 128 (section 4.1).

The paper gives the length and the image size but no learning rate. This config uses a twentieth of the rate for
training from scratch. Everything else is as for training from scratch.
"""

_base_ = "./van_in1k.py"

model = dict(backbone=dict(drop_path_rate=0.2, init_cfg=dict(type="Pretrained")))

optim_wrapper = dict(optimizer=dict(lr=5e-5))
train_cfg = dict(max_epochs=30)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=30)
