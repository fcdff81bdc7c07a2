"""VAN pre-trained on ImageNet-22K, 90 epochs, batch 64 x 128 (section 4.1).

The recipe is that of ImageNet-1K except for the length, the batch size and EMA, which is not used. The paper prints a
batch size of 8196. This config uses 8192, which splits evenly over GPUs, and scales the learning rate with it.
"""

_base_ = "./van_in1k.py"

# The Fall 2011 release of ImageNet has 21,841 classes and no validation set.
data_preprocessor = dict(num_classes=21841)
model = dict(backbone=dict(drop_path_rate=0.2), head=dict(num_classes=21841))

train_dataloader = dict(dataset=dict(type="ImageNet21k", data_root="data/imagenet21k"))
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None

optim_wrapper = dict(optimizer=dict(lr=8e-3))
train_cfg = dict(max_epochs=90)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=90)
custom_hooks = []
auto_scale_lr = dict(base_batch_size=8192)
