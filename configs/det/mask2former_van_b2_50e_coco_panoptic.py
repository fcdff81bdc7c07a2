"""Mask2Former with VAN-B2 on COCO panoptic, 50 epochs, batch 8 x 2, 100 queries (section 4.4, table 14: 54.9 PQ).

The paper gives no drop path rate for panoptic segmentation. Our choice is 0.3, as in mmdet's Mask2Former with Swin.
"""

_base_ = ["mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py", "./_base_/van.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        **_base_.van | dict(drop_path_rate=0.3),
        arch="b2",
        init_cfg=dict(type="Pretrained", checkpoint="van_mm://b2_in1k"),
    ),
    panoptic_head=dict(in_channels=[64, 128, 320, 512]),
)

# The upstream config multiplies the learning rate of every parameter with "backbone" in its name by 0.1 and leaves
# their weight decay on, which norm_decay_mult cannot turn off. mmdet's Mask2Former with Swin excludes norms from weight
# decay. Excluding LayerScale is our choice, because ImageNet training does it. A longer key precedes a shorter one, and
# no parameter of the head has one of these in its name.
no_decay = dict(lr_mult=0.1, decay_mult=0.0)
no_decay_keys = [f".norm{i}.{kind}" for i in (1, 2, 3, 4) for kind in ("weight", "bias")]
no_decay_keys += [*(f"backbone.patch_embed{i}.norm" for i in (1, 2, 3, 4)), ".layer_scale_"]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={key: no_decay for key in no_decay_keys}))

# Settings of --demo for this experiment, see van_mm/demo/demo_config.py.
demo = dict(scale=0.125, batch_size=2, iters=380, lr=2e-4)
