"""``van``, the settings of the backbone that all detectors share.

A config inserts them into its model: ``model = dict(backbone=dict(_delete_=True, **_base_.van, arch="b2", ...))``. They
are a variable because most configs inherit a whole upstream experiment, and mmengine does not merge two bases that both
define ``model``. The paper gives no drop path rate for detection. Our choice is 0.2 for B2 and B3, as mmdet's Mask
R-CNN with Swin-T and Swin-S has, and 0.1 for B0 and B1, because they are small.
"""

van = dict(type="van_mm.VAN", drop_path_rate=0.2, norm_cfg=dict(type="SyncBN", requires_grad=True))
