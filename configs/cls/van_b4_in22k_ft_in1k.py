"""VAN-B4 from ImageNet-22K, fine-tuned on ImageNet-1K at 224x224, 30 epochs (section 4.1, table 8: 85.7 top-1).

The paper gives the length and the image sizes. The learning rate, which it does not give, is a twentieth of the
training's from scratch; the rest is as there.
"""

_base_ = "./van_b2_in1k.py"

model = dict(
    backbone=dict(
        arch="b4",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b4_in22k"),
    )
)
optim_wrapper = dict(optimizer=dict(lr=5e-5))
train_cfg = dict(max_epochs=30)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=30)
