"""What the pre-training on ImageNet-22K and the fine-tuning after it share, from the authors' ImageNet-22K code.

The code is the folder ImageNet-22k of github.com/LGYoung/VAN-Classification. Unlike the ImageNet-1K runs, it normalizes
with ImageNet's mean and standard deviation (main.py:151), resizes the short side to 256 for the test
(datasets.py:85-92) and uses no EMA (main.py:66).
"""

_base_ = "./van_in1k.py"

mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
data_preprocessor = dict(mean=mean, std=std)

# Images are BGR before the preprocessor. RandAugment fills with the mean, and RandomErasing with noise that has the
# mean and standard deviation of normalized images.
train_pipeline = _base_.train_pipeline
train_pipeline[3].hparams.update(pad_val=[round(value) for value in mean[::-1]])
train_pipeline[4].update(fill_color=mean[::-1], fill_std=std[::-1])
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=256)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

custom_hooks = []
