"""``van``, the settings of the backbone that all detectors share.

A config inserts them into its model: ``model = dict(backbone=dict(_delete_=True, **_base_.van, arch="b2", ...))``.
They are a variable because most configs inherit a whole upstream experiment, and mmengine does not merge two bases that
both define ``model``. The drop path rate is that of B0 to B2.
"""

van = dict(type="van_mm.VAN", drop_path_rate=0.1, norm_cfg=dict(type="SyncBN", requires_grad=True))
