"""Class folders, labels and settings of classification that do not fit each other are named before training starts."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.datasets.checks.coco_data import assert_found, find_messages, make_config
from van_mm.datasets.checks.files import check_data_files
from van_mm.datasets.checks.samples import find_sample_problems

PIPELINE = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]


def write_folders(root: Path, *names: str) -> None:
    """Write a folder with one image for each class."""
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "0.png")


def make_dataset(root: Path, **settings) -> dict:
    return dict(type="CustomDataset", data_root=str(root), pipeline=PIPELINE) | dict(settings)


def make_cls_config(num_classes: int = 3, head=None, model=None, **settings) -> Config:
    head = dict(type="LinearClsHead", num_classes=num_classes) | (head or {})
    return make_config("mmpretrain", dict(type="ImageClassifier", head=head) | (model or {}), **settings)


def make_split_config(root: Path, train="abc", other="abc", split: str = "val", wrap=lambda x: x, **settings) -> Config:
    write_folders(root / "train", *train)
    write_folders(root / split, *other)
    data = {"train": make_dataset(root / "train", **settings), split: wrap(make_dataset(root / split, **settings))}
    return make_cls_config(max(len(train), len(other)), **data)


def test_healthy_folders(tmp_path):
    assert find_messages(make_split_config(tmp_path)) == {}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("other", ["ac", "abd", "bcd"])
def test_different_folders(tmp_path, split, other):
    cfg = make_split_config(tmp_path, other=other, split=split)
    assert_found(cfg, f"train and {split}", "class folders", "a, b, c (3)", ", ".join(other), "same folders")


def test_different_folders_in_wrapper(tmp_path):
    def wrap(dataset):
        return dict(type="ConcatDataset", datasets=[dict(type="RepeatDataset", times=2, dataset=dataset)])

    assert_found(make_split_config(tmp_path, other="ac", wrap=wrap), "a, b, c (3) and a, c (2)", "only the first has b")


def test_last_folders_are_missing(tmp_path):
    cfg = make_split_config(tmp_path, other="ab")
    assert_found(cfg, "class folders", "a, b, c (3) and a, b (2)", is_error=False)


def test_explicit_classes(tmp_path):
    cfg = make_split_config(tmp_path / "x", other="abd", metainfo=dict(classes=("x", "y", "z")))
    assert_found(cfg, "class folders", "a, b, c (3) and a, b, d (3)")
    cfg = make_split_config(tmp_path / "y", classes=["c", "a", "b"])
    for split in ("train", "val"):
        assert_found(cfg, f"{split} data set are in the order c, a, b", "sorted folders, a, b, c")


def test_classes_in_a_text_file(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("a\nb\nc\n")
    assert find_messages(make_split_config(tmp_path, classes=str(file))) == {}
    file.write_text("b\na\nc\n")
    assert_found(make_split_config(tmp_path / "1", classes=str(file)), "train data set are in the order b, a, c")


def write_list(root: Path, *labels: int) -> dict:
    """Write images and a list of their labels, and return the settings of a data set without names."""
    root.mkdir()
    for index in range(len(labels)):
        Image.new("RGB", (8, 8)).save(root / f"{index}.png")
    (root / "list.txt").write_text("".join(f"{index}.png {label}\n" for index, label in enumerate(labels)))
    return make_dataset(root, ann_file="list.txt")


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_of_a_list(tmp_path, split):
    data = write_list(tmp_path / "data", 1, 2, 3)
    assert find_messages(make_cls_config(4, **{split: data})) == {}
    cfg = make_cls_config(3, **{split: data})
    assert_found(cfg, "2.png", f"{split} data set has the label 3", "3 classes in model.head.num_classes", "from 0")
    cfg = make_cls_config(4, **{split: data | dict(classes=["a", "b", "c"])})
    assert_found(cfg, "has the label 3", "3 classes, from 0")


@pytest.mark.parametrize(("number", "is_error"), [(2, True), (1000, False)])
def test_head(tmp_path, number, is_error):
    write_folders(tmp_path, *"abc")
    cfg = make_cls_config(number, train=make_dataset(tmp_path))
    assert_found(cfg, f"model.head.num_classes is {number}", "train data set has 3 classes", is_error=is_error)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("form", [dict, list])
def test_topk_of_metric(tmp_path, split, form):
    write_folders(tmp_path, *"abc")

    def make(topk):
        metric = dict(type="Accuracy", topk=topk)
        evaluator = metric if form is dict else [dict(type="SingleLabelMetric"), metric]
        return make_cls_config(**{split: make_dataset(tmp_path), f"{split}_evaluator": evaluator})

    assert_found(make((1, 5)), f"{split}_evaluator.topk", "top-5", "3 classes", "to (1,)")
    assert_found(make(5), "top-5", "to (1,)")
    assert find_messages(make((1, 3))) == {}


def test_topk_of_head(tmp_path):
    write_folders(tmp_path, *"abc")
    data = dict(train=make_dataset(tmp_path))
    assert find_messages(make_cls_config(head=dict(topk=(1, 5)), **data)) == {}  # used with cal_acc only
    assert_found(make_cls_config(head=dict(topk=(1, 5), cal_acc=True), **data), "model.head.topk", "top-5", "(1,)")


def test_num_classes_of_preprocessor(tmp_path):
    write_folders(tmp_path, *"abc")
    data = dict(train=make_dataset(tmp_path), data_preprocessor=dict(num_classes=1000))
    assert find_messages(make_cls_config(**data)) == {}  # not used
    words = ("data_preprocessor.num_classes is 1000", "model.head.num_classes is 3", "num_classes=3")
    mixup = dict(type="Mixup", alpha=0.8)
    assert_found(make_cls_config(model=dict(train_cfg=dict(augments=[mixup])), **data), *words, "Mixup")
    assert_found(make_cls_config(model=dict(train_cfg=dict(augments=mixup)), **data), *words, "Mixup")
    preprocessor = dict(num_classes=1000, batch_augments=dict(augments=[dict(type="CutMix", alpha=1.0)]))
    assert_found(make_cls_config(**data | dict(data_preprocessor=preprocessor)), *words, "CutMix")
    preprocessor = dict(num_classes=1000, to_onehot=True)
    assert_found(make_cls_config(model=dict(data_preprocessor=preprocessor), train=data["train"]), *words)
    loss = dict(type="LabelSmoothLoss", label_smooth_val=0.1, num_classes=1000)
    assert_found(make_cls_config(head=dict(loss=loss), train=data["train"]), "loss.num_classes is 1000", "is 3")
    loss = dict(type="CrossEntropyLoss", class_weight=[1, 2])
    assert_found(make_cls_config(head=dict(loss=loss), train=data["train"]), "class_weight has 2 entries", "is 3")


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Write files in CIFAR-10's format, and return the config of a data set that reads them."""
    from mmpretrain.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        entry = dict(data=np.zeros((4, 3072), np.uint8), labels=[0, 1, 2, 9])
        (folder / name).write_bytes(pickle.dumps(entry))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    return dict(type="CIFAR10", data_root=str(tmp_path), split="test", pipeline=[dict(type="PackInputs")])


@pytest.mark.parametrize("download", [{}, dict(download=False)])
def test_images_in_memory(cifar, download):
    from mmengine.registry import DATASETS, DefaultScope

    cfg = make_cls_config(10, train=cifar | download, val=cifar | download)
    check_data_files(cfg, ("train", "val"))
    assert find_messages(cfg) == {}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        assert find_sample_problems(DATASETS.build(cfg.train_dataloader.dataset), 3) == ("image 3", [])


def test_voc_split_is_no_folder(tmp_path):
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir()
    cfg = make_cls_config(20, train=dict(type="VOC", data_root=str(tmp_path), split="trainval"))
    check_data_files(cfg, ("train",))
