"""Saliency at 384x384: training on DUTS-TR, tests on DUTS-TE, DUT-OMRON and PASCAL-S (section 4.7).

As in EDN's release, half of the training images lose equal margins of 0 to 12 pixels on opposite sides. Unlike in the
release, flips are horizontal: OpenCV's flip code 0 in transforms.py:116 turns images upside down, although the comment
there says horizontal. All batches have 384x384 pixels, the only size that the paper names. The release also trains at
320x320 and 352x352 (scripts/train.py:145 and 230-243).
"""

dataset_type = "van_mm.SaliencyDataset"
data_root = "data/saliency"

meta_keys = ("img_path", "seg_map_path", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip",
             "flip_direction", "subset")  # fmt: skip
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="van_mm.LoadSaliencyMask"),
    dict(type="Resize", scale=(384, 384), keep_ratio=False),
    dict(type="van_mm.RandomMarginCrop", prob=0.5, max_margin=7 / 224),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs", meta_keys=meta_keys),
]
test_pipeline = [  # loads the mask after Resize, so that it keeps its size
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(384, 384), keep_ratio=False),
    dict(type="van_mm.LoadSaliencyMask"),
    dict(type="PackSegInputs", meta_keys=meta_keys),
]

train_dataloader = dict(
    batch_size=24,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, subset="DUTS-TR", pipeline=train_pipeline),
)
tests = [
    dict(type=dataset_type, data_root=data_root, subset=subset, pipeline=test_pipeline, test_mode=True)
    for subset in ("DUTS-TE", "DUT-OMRON", "PASCAL-S")
]
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=tests[0],
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ConcatDataset", datasets=tests),
)
val_evaluator = dict(type="van_mm.SaliencyMetric")
test_evaluator = val_evaluator
