"""VAN-B4 pre-trained on ImageNet-22K, 90 epochs, batch 64 x 128 (section 4.1, table 8).

As on ImageNet-1K but for its length, batch and the missing EMA. The paper prints a batch of 8196, which divides into no
number of GPUs; 8192 is taken, and the learning rate scaled with it. The 21,841 classes are the Fall 2011 release's; it
has no validation set.
"""

_base_ = "./van_b2_in1k.py"

data_preprocessor = dict(num_classes=21841)
model = dict(backbone=dict(arch="b4", drop_path_rate=0.2), head=dict(num_classes=21841))

train_dataloader = dict(dataset=dict(type="ImageNet21k", data_root="data/imagenet21k"))
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None

optim_wrapper = dict(optimizer=dict(lr=8e-3))
train_cfg = dict(max_epochs=90)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=90)
custom_hooks = []
auto_scale_lr = dict(base_batch_size=8192)
