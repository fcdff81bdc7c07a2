"""Instance segmentation on COCO JSON: data/leaves/{train,val}/ and annotations/instances_{train,val}.json."""

_base_ = "../det/mask_rcnn_van_b0_1x_coco.py"

run_options = dict(data="data/leaves", epochs=20)
