"""Small data sets in COCO's format, and configs that read them."""

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from van_mm.datasets.checks.files import check_dataset_settings
from van_mm.datasets.checks.run import find_run_problems, wrap_dataset_errors

CLASSES = ("cat", "dog", "owl")
LOAD = dict(type="LoadImageFromFile")
BOXES = [dict(type="LoadAnnotations", with_bbox=True)]
MASKS = [dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
PACK = [dict(type="PackDetInputs")]


def make_content(names=CLASSES, number: int = 6, first: int = 1, prefix: str = "") -> dict:
    """Return a healthy COCO file: ``number`` images of 48 x 64 with one object of each class."""
    categories = [dict(id=CLASSES.index(name) + 10 if name in CLASSES else 99, name=name) for name in names]
    images = [dict(id=i, file_name=f"{prefix}{i}.jpg", height=48, width=64) for i in range(1, number + 1)]
    annotations = []
    for image in images:
        for k, category in enumerate(categories):
            x, y, w, h = 3 + 15 * k, 6 + image["id"], 12, 10 + k
            annotations.append(
                dict(
                    id=len(annotations) + first,
                    image_id=image["id"],
                    category_id=category["id"],
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
    return dict(images=images, annotations=annotations, categories=categories)


def make_people(number: int = 6, keypoints: int = 17) -> dict:
    """Return a healthy COCO file with one person in each image of 48 x 64."""
    content = make_content(("cat",), number)
    content["categories"] = [dict(id=1, name="person")]
    for annotation in content["annotations"]:
        x, y, _, _ = annotation["bbox"]
        points = [[x + k % 10, y + k % 7, 2] for k in range(keypoints)]
        annotation.update(category_id=1, keypoints=sum(points, []), num_keypoints=keypoints)
    return content


def write(root: Path, content: dict, name: str = "train", orientation: int | None = None, size=None) -> str:
    """Write a COCO file and its images below ``root``, and return the path of the file."""
    (root / "images").mkdir(exist_ok=True, parents=True)
    for image in content["images"]:
        height, width = size or (image.get("height", 48), image.get("width", 64))
        picture = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        picture.save(root / "images" / image["file_name"], exif=exif)
    path = root / f"{name}.json"
    path.write_text(json.dumps(content))
    return str(path)


def make_dataset(file: str, test_mode: bool = False, steps=BOXES, **settings) -> dict:
    """Return the config of a detection data set."""
    return dict(
        type="CocoDataset",
        data_root=str(Path(file).parent),
        ann_file=Path(file).name,
        data_prefix=dict(img="images/"),
        metainfo=dict(classes=CLASSES),
        pipeline=[LOAD, *steps, *PACK],
        test_mode=test_mode,
    ) | dict(settings)


def make_pose_dataset(file: str, test_mode: bool = False, **settings) -> dict:
    """Return the config of a pose data set."""
    return dict(
        type="CocoDataset",
        data_root=str(Path(file).parent),
        ann_file=Path(file).name,
        data_prefix=dict(img="images/"),
        pipeline=[dict(type="LoadImage")],
        test_mode=test_mode,
    ) | dict(settings)


def make_config(scope: str = "mmdet", model: dict | None = None, **settings) -> Config:
    """Return a config whose splits are ``train``, ``val`` and ``test`` of the keyword arguments."""
    loaders = {f"{split}_dataloader": dict(dataset=settings.pop(split)) for split in ("train", "val", "test")
               if split in settings}  # fmt: skip
    return Config(dict(default_scope=scope, model=model or dict(type="Detector"), **loaders, **settings))


def find_messages(cfg: Config) -> dict[str, bool]:
    """Build the data sets of a config as a run does, and return each message with whether it is an error."""
    from mmengine.utils import import_modules_from_strings

    import_modules_from_strings([f"{cfg.default_scope}.datasets"])
    splits = [split for split in ("train", "val", "test") if cfg.get(f"{split}_dataloader")]
    check_dataset_settings(cfg, splits)
    datasets = {}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for split in splits:
            dataset_cfg = cfg[f"{split}_dataloader"].dataset
            with wrap_dataset_errors(split, dataset_cfg):
                datasets[split] = DATASETS.build(dataset_cfg)
        return {problem.message: problem.is_error for problem in find_run_problems(cfg, datasets)}


def assert_found(cfg: Config, *words: str, is_error: bool = True) -> None:
    """Assert that one problem has all words, and that it ends with a remedy."""
    messages = find_messages(cfg)
    found = [message for message in messages if all(word in message for word in words)]
    assert len(found) == 1, messages
    assert messages[found[0]] is is_error
    assert ". " in found[0]
