"""Images are compared with their annotations in the size that training sees, whatever their EXIF orientation."""

import shutil

import mmcv
import numpy as np
import pytest
from PIL import Image

from tests.datasets.checks.coco_data import (
    BOXES,
    CLASSES,
    assert_found,
    find_messages,
    make_config,
    make_content,
    make_dataset,
    make_people,
    make_pose_dataset,
    write,
)
from van_mm.datasets.checks.images import read_size
from van_mm.datasets.checks.samples import find_sample_problems

STORED = dict(type="LoadImageFromFile", color_type="color_ignore_orientation")
TURNED, UPRIGHT = "EXIF orientation and are turned when they are read, but annotated as stored", 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("flag", ["color", "grayscale", "unchanged", "color_ignore_orientation"])
def test_size_is_that_of_mmcv(tmp_path, suffix, orientation, backend, flag):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / f"a.{suffix}")
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path, exif=exif)
    assert read_size(path, flag, backend)[0] == mmcv.imread(path, flag=flag, backend=backend).shape[:2]


def write_turned(root, content=None, orientation: int = 6, annotated_as_read: bool = True) -> str:
    """Write images with an orientation. 48 x 64 is the size of the annotations."""
    swap = orientation > 4 and annotated_as_read
    return write(root, content or make_content(), orientation=orientation, size=(64, 48) if swap else (48, 64))


def find_deep_problems(cfg) -> list[str]:
    """Return the problems of all samples of the training set."""
    from mmengine.registry import DATASETS, DefaultScope

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset_cfg = cfg.train_dataloader.dataset
        dataset_cfg.pipeline = [step for step in dataset_cfg.pipeline if "Load" in step.type]
        dataset = DATASETS.build(dataset_cfg)
    return [line for index in range(len(dataset)) for line in find_sample_problems(dataset, index)[1]]


@pytest.mark.parametrize("orientation", [5, 6, 8])
def test_turned_images_of_boxes(tmp_path, orientation):
    right = write_turned(tmp_path / "right", orientation=orientation)
    wrong = write_turned(tmp_path / "wrong", orientation=orientation, annotated_as_read=False)
    assert find_messages(make_config(train=make_dataset(right))) == {}
    assert find_deep_problems(make_config(train=make_dataset(right))) == []
    for split in ("train", "val"):
        cfg = make_config(**{split: make_dataset(wrong)})
        assert_found(cfg, "6 of 6 images", f"{split} data set", TURNED, "64 x 48 instead of 48 x 64")
    assert any("48 x 64 pixels" in line for line in find_deep_problems(make_config(train=make_dataset(wrong))))
    # A pipeline that reads images as they are stored needs the opposite annotations.
    stored = dict(pipeline=[STORED, *BOXES])
    assert find_messages(make_config(train=make_dataset(wrong, **stored))) == {}
    assert find_deep_problems(make_config(train=make_dataset(wrong, **stored))) == []
    assert_found(make_config(train=make_dataset(right, **stored)), "6 of 6", "read as stored, but annotated as turned")


def test_turned_images_of_poses(tmp_path):
    right = write_turned(tmp_path / "right", make_people())
    wrong = write_turned(tmp_path / "wrong", make_people(), annotated_as_read=False)
    assert find_messages(make_config("mmpose", train=make_pose_dataset(right))) == {}
    assert_found(make_config("mmpose", train=make_pose_dataset(wrong)), "6 of 6", TURNED)


@pytest.mark.parametrize(("orientation", "side"), [(3, None), (2, None), (6, 64), (8, 64)])
def test_orientations_that_the_size_does_not_show(tmp_path, orientation, side):
    content = make_content()
    for image in content["images"]:
        image["height"] = side or image["height"]
    file = write(tmp_path, content, orientation=orientation)
    cfg = make_config(train=make_dataset(file))
    assert_found(cfg, "6 of 6 images", "EXIF orientation and are turned", "browse_dataset", is_error=False)


def test_some_images(tmp_path):
    file = write(tmp_path / "a", make_content(number=200))
    turned = write_turned(tmp_path / "b", make_content(number=1), annotated_as_read=False)
    shutil.copy(f"{turned[:-10]}/images/1.jpg", tmp_path / "a" / "images")
    assert_found(make_config(train=make_dataset(file)), "1 of 200 images", TURNED, is_error=False)


def test_other_sizes(tmp_path):
    file = write(tmp_path, make_content(), size=(30, 40))
    wrapped = dict(type="RepeatDataset", times=2, dataset=make_dataset(file))
    assert_found(make_config(train=wrapped), "6 of 6 images", "another size", "30 x 40 instead of 48 x 64")


def test_large_sets_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("van_mm.datasets.checks.images.MAX_HEADERS", 4)
    file = write(tmp_path, make_content(), size=(30, 40))
    assert_found(make_config(train=make_dataset(file)), "4 of 4 images (a sample of 6)")


def write_label_maps(root, orientation: int, size: tuple) -> dict:
    """Write images and label maps of 48 x 64, and return the config of their data set."""
    content = make_content(number=3)
    write(root, content, orientation=orientation, size=size)
    (root / "maps").mkdir()
    for image in content["images"]:
        Image.fromarray(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) % 3).save(
            root / "maps" / f"{image['id']}.png"
        )
    return dict(
        type="BaseSegDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images", seg_map_path="maps"),
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
    )


def test_turned_images_of_label_maps(tmp_path):
    right = make_config("mmseg", train=write_label_maps(tmp_path / "right", 6, (64, 48)))
    wrong = make_config("mmseg", train=write_label_maps(tmp_path / "wrong", 6, (48, 64)))
    assert not any("EXIF" in message for message in find_messages(right))
    assert find_deep_problems(right) == []
    assert_found(wrong, "3 of 3 images", TURNED, "64 x 48 instead of 48 x 64")
    assert any("wrong size" in line for line in find_deep_problems(wrong))


def test_turned_images_without_places_are_healthy(tmp_path):
    write_turned(tmp_path)
    (tmp_path / "images").rename(tmp_path / "cat")
    dataset = dict(
        type="CustomDataset", data_root=str(tmp_path), with_label=True, pipeline=[dict(type="LoadImageFromFile")]
    )
    assert not any("EXIF" in message for message in find_messages(make_config("mmpretrain", train=dataset)))
