"""A detector on Pascal VOC XML: data/cells/{JPEGImages,Annotations}/, perhaps with ImageSets/Main/."""

_base_ = "../det/retinanet_van_b0_1x_coco.py"

run_options = dict(data="data/cells", epochs=20)
