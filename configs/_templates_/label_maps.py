"""A segmentor on label PNGs: data/fields/{images,masks}/{train,val}/, where the value 11 is no class."""

_base_ = "../seg/upernet_van_b0.py"

run_options = dict(data="data/fields", ignore_index=11, epochs=20)
