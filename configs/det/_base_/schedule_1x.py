"""Section 4.2's optimiser (AdamW, 1e-4, weight decay 0.05, batch 16) on mmdet's 1x schedule of 12 epochs.

The paper is silent on weight decay for norms; as in Swin's detectors, whose settings it follows, they take none.
"""

_base_ = "mmdet::_base_/schedules/schedule_1x.py"

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}),
)
