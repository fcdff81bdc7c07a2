"""The demo scales configs of pose estimation with several codecs."""

import pytest

from van_mm import get_config
from van_mm.demo.demo_config import apply_demo
from van_mm.utils.config_walk import iter_dicts

FOLDER = "mmpose::body_2d_keypoint/topdown_heatmap/coco"


@pytest.mark.parametrize("name", ["td-hm_rsn18_8xb32-210e_coco-256x192", "td-hm_mspn50_8xb32-210e_coco-256x192"])
def test_list_of_codecs(name):
    cfg = get_config(f"{FOLDER}/{name}")
    apply_demo(cfg)
    encoders = [node.encoder for node in iter_dicts(cfg.train_dataloader.dataset) if "encoder" in node]
    sizes = {tuple(codec.heatmap_size) for codec in encoders[0]}
    assert len(encoders[0]) > 1 and sizes == {tuple(reversed(cfg.model.head.out_shape))}
