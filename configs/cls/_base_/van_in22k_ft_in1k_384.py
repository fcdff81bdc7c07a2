"""VAN from ImageNet-22K, fine-tuned on ImageNet-1K at 384x384, 30 epochs, batch 32 x 16 (section 4.1).

As at 224x224, with ImageNet-22k/finetune_384.sh of the authors' code. The test warps the whole image to 384x384 instead
of cropping it (datasets.py:78-82).
"""

_base_ = "./van_in22k_ft_in1k.py"

size = 384
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=size)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Settings of --demo for these experiments, see van_mm/demo/demo_config.py.
demo = dict(scale=64 / 384)
