"""Missing files are named with a hint, and files that are not on the local disk are left to mmengine."""

import pytest
from mmengine.config import Config

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
