"""VAN from ImageNet-22K, fine-tuned on ImageNet-1K at 384x384, 30 epochs, batch 16 x 64 (section 4.1).

The test resizes the short side to 384, the crop size, as is usual at this resolution.
"""

_base_ = "./van_in22k_ft_in1k.py"

size = 384
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=size)
test_pipeline[2].update(crop_size=size)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Settings of --demo for these experiments, see van_mm/demo/demo_config.py.
demo = dict(scale=64 / 384)
