"""SimpleBaseline with VAN-B2 on COCO keypoints, 256x192, 210 epochs, batch 8 x 64 (section 4.5, table 15: 74.9 AP)."""

_base_ = "mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="van_mm.VAN",
        arch="b2",
        out_indices=(3,),
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/van_3rdparty/"
            "van-b2_3rdparty_20230522-636fac93.pth",
        ),
    ),
    head=dict(in_channels=512),
)
