"""VAN pre-trained on ImageNet-22K, 90 epochs, batch 64 x 128 (section 4.1).

Learning rate, warm-up and the drop path rate of B4 are those of the authors' ImageNet-22K code (ImageNet-22k/train.sh
in github.com/LGYoung/VAN-Classification). The paper prints a batch size of 8196; train.sh has 8192: 64 GPUs, 64 images
each, gradients of two steps accumulated. Here each GPU takes 128 images in a single step. The gradients are the same
except that each GPU's BatchNorm sees 128 images instead of 64.
"""

_base_ = "./van_in22k_common.py"

# The Fall 2011 release of ImageNet has 21,841 classes and no validation set.
data_preprocessor = dict(num_classes=21841)
model = dict(head=dict(num_classes=21841))

train_dataloader = dict(dataset=dict(type="ImageNet21k", data_root="data/imagenet21k"))
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None

optim_wrapper = dict(optimizer=dict(lr=4e-3))
train_cfg = dict(max_epochs=90)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=90)
auto_scale_lr = dict(base_batch_size=8192)
