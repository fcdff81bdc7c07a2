"""VAN-B4 from ImageNet-22K, fine-tuned on ImageNet-1K at 384x384, 30 epochs (section 4.1, table 8: 86.6 top-1).

The test takes the whole image, as is usual at this size: no margin is resized away and cropped.
"""

_base_ = "./van_b4_in22k_ft_in1k.py"

size = 384
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=size)
test_pipeline[2].update(crop_size=size)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))  # 16 GPUs make the batch of 1024
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# What --demo takes instead of its defaults, see van_mm/demo/__init__.py.
demo = dict(scale=64 / 384)
