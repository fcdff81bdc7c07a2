"""Missing files are named with a hint, and files that are not on the local disk are left to mmengine."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from tests.datasets.checks.coco_data import assert_found, make_config, make_content, make_dataset, write
from tests.datasets.checks.test_segmentation import make_labels, make_seg_config, write_maps
from van_mm.datasets.checks.files import check_data_files
from van_mm.utils.errors import UserError

LOAD = dict(type="LoadImageFromFile")


def check(**settings) -> None:
    dataset = dict(type="CocoDataset", ann_file="a.json", data_prefix=dict(img="images/")) | settings
    wrapped = dict(type="RepeatDataset", times=2, dataset=dataset)
    check_data_files(Config(dict(train_dataloader=dict(dataset=wrapped))), ("train",))


@pytest.mark.parametrize(
    "settings",
    [
        dict(data_root="s3://bucket/coco"),
        dict(data_root="petrel://bucket/coco/"),
        dict(data_root="coco", backend_args=dict(backend="petrel", path_mapping={"coco/": "s3://coco"})),
        dict(data_root="coco", file_client_args=dict(backend="memcached")),
        dict(data_root="", ann_file="", data_prefix=dict(img="https://host/images")),
        dict(
            data_root="",
            ann_file="",
            pipeline=[dict(LOAD, backend_args=dict(backend="lmdb", db_path="images.lmdb"))],
        ),
    ],
)
def test_remote_files_are_left_alone(settings):
    check(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        dict(data_root="coco"),
        dict(data_root="coco", backend_args=dict(backend="local")),
        dict(data_root="coco", pipeline=[dict(LOAD, backend_args=dict(backend="lmdb"))]),  # the annotations are local
        dict(data_root="coco", data_prefix=dict(img="s3://bucket/images")),
    ],
)
def test_local_files_are_checked(settings):
    with pytest.raises(UserError, match="coco/.* does not exist"):
        check(**settings)


@pytest.mark.parametrize(
    "settings", [dict(data_root="data\\coco"), dict(data_root=".", ann_file="annotations\\a.json", data_prefix={})]
)
def test_backslashes(settings):
    with pytest.raises(UserError, match="does not exist. Its path has backslashes.*forward slashes"):
        check(**settings)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_missing_images(tmp_path, split):
    file = write(tmp_path, make_content())
    (tmp_path / "images/3.jpg").unlink()
    dataset = dict(type="RepeatDataset", times=2, dataset=make_dataset(file, split != "train"))
    words = (f"1 of 6 images of the {split} data set", "images/3.jpg", "data_prefix")
    assert_found(make_config(**{split: dataset}), *words, is_error=split != "train")


def test_backslashes_in_a_file(tmp_path):
    content = make_content()
    file = write(tmp_path, content)
    for image in content["images"]:
        image["file_name"] = "..\\images\\" + image["file_name"]
    Path(file).write_text(json.dumps(content))
    assert_found(make_config(train=make_dataset(file)), "6 of 6 images", "backslashes", "forward slashes")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_label_maps(tmp_path, split):
    write_maps(tmp_path, [make_labels(0, 1, 2)] * 3, split=split)
    (tmp_path / split / "maps/001.png").unlink()
    words = (f"1 of 3 label maps of the {split} data set", "001.png")
    assert_found(make_seg_config(tmp_path, split), *words, is_error=split != "train")
