"""``adamw``, the optimizer of section 4.2: learning rate 1e-4 and weight decay 0.05 at batch 16.

The paper does not say whether norms take weight decay. Here they take none, as in Swin's detectors, whose settings the
paper follows.
"""

adamw = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}),
)
