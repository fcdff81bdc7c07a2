"""A pose estimator on COCO JSON with keypoints: data/horses/{images/,train.json,val.json}."""

_base_ = "../pose/simplebaseline_van_b2_coco_256x192.py"

run_options = dict(data="data/horses", epochs=20)
