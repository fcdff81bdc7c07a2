"""A classifier on class folders: data/animals/{train,val}/<class>/*.jpg, or data/animals/<class>/*.jpg."""

_base_ = "../cls/van_b0_in1k.py"

run_options = dict(data="data/animals", epochs=20)
