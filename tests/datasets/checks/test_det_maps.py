"""Label maps that mmdet reads beside boxes, and panoptic ones, are checked before training starts."""

import numpy as np
import pytest
from PIL import Image

from tests.datasets.checks.coco_data import assert_found, find_messages, make_config, make_content, make_dataset, write
from tests.datasets.checks.test_panoptic import make_model, make_panoptic_config, write_panoptic

STEPS = [dict(type="LoadAnnotations", with_bbox=True, with_mask=True, with_seg=True)]


def make_semantic_config(root, labels: np.ndarray, split: str = "train", wrap=lambda data: data, **head):
    """Return a config with a semantic head of three classes, and write its data with the same label map everywhere."""
    content = make_content(number=3)
    file = write(root, content)
    (root / "maps").mkdir()
    for image in content["images"]:
        Image.fromarray(labels).save(root / "maps" / f"{image['id']}.png")
    head = dict(type="FusedSemanticHead", num_classes=3) | head
    model = dict(type="HTC", roi_head=dict(semantic_head=head), data_preprocessor=dict(pad_seg=True))
    dataset = make_dataset(file, split != "train", STEPS, data_prefix=dict(img="images/", seg="maps/"))
    return make_config(model=model, **{split: wrap(dataset)})


def make_map(*values: int, dtype=np.uint8) -> np.ndarray:
    return np.resize(np.array(values, dtype), (48, 64))


def test_healthy_maps(tmp_path):
    assert find_messages(make_semantic_config(tmp_path, make_map(0, 1, 2, 255))) == {}


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_beyond_the_head(tmp_path, split, dtype):
    cfg = make_semantic_config(tmp_path, make_map(0, 3, 200, dtype=dtype), split)
    words = ("the labels 3, 200", "model.roi_head.semantic_head.num_classes is 3", "ignored label 255")
    assert_found(cfg, *words, is_error=split == "train")


def test_channels_in_a_wrapper(tmp_path):
    def wrap(dataset):
        return dict(type="ConcatDataset", datasets=[dict(type="RepeatDataset", times=2, dataset=dataset)])

    cfg = make_semantic_config(tmp_path, np.zeros((48, 64, 3), np.uint8), wrap=wrap)
    assert_found(cfg, "3 label maps of the train data set", "3 channels (red, green, blue)")


def test_ignored_pixels(tmp_path):
    assert_found(make_semantic_config(tmp_path, make_map(255)), "all pixels", "255, which is ignored", "0 to 2")


def test_padding(tmp_path):
    cfg = make_semantic_config(tmp_path, make_map(0, 1, 2, 9), loss_seg=dict(ignore_index=9))
    assert_found(cfg, "seg_pad_value is 255", "ignore_index of the heads is 9", "training fails")
    cfg.model.data_preprocessor.seg_pad_value = 9
    assert find_messages(cfg) == {}


def write_segment_maps(root, ids: dict[int, int]) -> None:
    """Write panoptic label maps in which segments k of five have the color ``ids[k]``."""
    labels = np.zeros((48, 64), np.int64)
    for k, number in ids.items():
        labels[:, 10 * k : 10 * k + 10] = number
    colors = np.stack([labels % 256, labels // 256 % 256, labels // 256**2], -1).astype(np.uint8)
    for file in (root / "maps").iterdir():
        Image.fromarray(colors).save(file)


@pytest.mark.parametrize("split", ["train", "val"])
def test_panoptic_ids(tmp_path, split):
    write_panoptic(tmp_path)
    steps = [dict(type="LoadImageFromFile"), dict(type="LoadPanopticAnnotations")]
    cfg = make_panoptic_config(tmp_path, make_model(3, 2), split)
    cfg[f"{split}_dataloader"].dataset.pipeline = steps
    write_segment_maps(tmp_path, {k: k for k in range(1, 6)})
    assert find_messages(cfg) == {}
    write_segment_maps(tmp_path, {k: k for k in range(1, 5)})
    assert_found(cfg, "3 of 15 segments", "for instance 5 in", "red + 256 * green", is_error=False)
    write_segment_maps(tmp_path, {k: 256**2 * k for k in range(1, 6)})  # blue and red exchanged
    assert_found(cfg, "15 of 15 segments", "for instance 1 in")
