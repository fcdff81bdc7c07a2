"""Folders of data are recognised in every usual layout, and nothing is written into them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.folders.data_folders import (
    NAMES,
    box_to_polygon,
    make_boxes,
    write_class_folders,
    write_coco,
    write_image,
    write_map,
    write_voc,
    write_yolo,
)
from van_mm.datasets.folders.found import find_split, split_off
from van_mm.datasets.folders.read import describe_folder, read_folder
from van_mm.utils.errors import UserError


def read(folder: Path, kind: str, **options):
    """Read a folder, and check that it stays as it is and that the same is read again."""
    files = sorted(folder.rglob("*"))
    data = read_folder(folder, kind, **options)
    assert sorted(folder.rglob("*")) == files
    again = read_folder(folder, kind, **options)
    assert again.splits == data.splits and again.classes == data.classes
    assert describe_folder(data).count("\n") >= len(data.classes)
    return data


def count(data) -> dict[str, int]:
    return {split: part.images for split, part in data.splits.items()}


@pytest.mark.parametrize(
    ("name", "split"),
    [("train2017", "train"), ("trainannot", "train"), ("valid", "val"), ("val_masks", "val"), ("Testing", "test"),
     ("trainval", None), ("trains", None), ("value", None), ("testudo", None), ("_annotations.coco.json", None)],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert find_split(name) == split


def test_every_class_stays_in_the_training_part():
    items = {i: ["common"] if i else ["rare"] for i in range(20)}
    for seed in range(20):
        train, val = split_off(items, seed)
        assert len(val) == 4 and 0 in train and not set(train) & set(val)
    assert split_off(items, 1) == split_off(items, 1) != split_off(items, 2)


# ---- Classification -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("splits", [("",), ("train", "val"), ("train", "valid", "test"), ("outer/train", "outer/val")])
def test_class_folders(splits, folder):
    data = read(write_class_folders(folder, splits), "classes")
    assert (data.kind, data.classes) == ("classes", ["cat", "dog"])
    assert count(data) == ({"train": 8, "val": 2} if len(splits) == 1 else {"train": 10, "val": 10} | (
        {"test": 10} if len(splits) > 2 else {}))  # fmt: skip
    line = data.splits["train"].ann_file.read_text().splitlines()[-1]
    file, _, label = line.rpartition(" ")
    assert (data.splits["train"].image_root / file).is_file() and label == "1"


def test_classes_named_like_splits(folder):
    data = read(write_class_folders(folder, classes=("train", "bus")), "classes")
    assert data.classes == ["bus", "train"] and count(data) == {"train": 8, "val": 2}


@pytest.mark.parametrize("header", [("filename", "label"), ("image_id", "breed"), None])
def test_csv(header, folder):
    rows = []
    for i in range(10):
        write_image(folder / "images" / f"{i}.jpg")
        rows.append((f"{i}" if header and header[0] == "image_id" else f"images/{i}.jpg", f"{i % 2 * 10}"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])
    data = read(folder, "classes")
    assert data.classes == ["0", "10"] and count(data) == {"train": 8, "val": 2}


def test_invented_labels_of_a_submission_are_not_read(folder):
    for i in range(4):
        write_image(folder / f"train/{i}.jpg")
    (folder / "train_labels.csv").write_text("id,label\n0,x\n1,y\n2,x\n3,y\n")
    (folder / "sample_submission.csv").write_text("id,label\n0,z\n")
    assert read(folder, "classes").classes == ["x", "y"]


def test_csv_of_each_split_and_missing_files(folder):
    write_image(folder / "a.jpg")
    write_image(folder / "b.jpg")
    (folder / "train.csv").write_text("file,class\na.jpg,x\nb.jpg,y\nc.jpg,y\n")
    (folder / "val.csv").write_text("file;class\nb.jpg;y\n")
    data = read(folder, "classes")
    assert count(data) == {"train": 2, "val": 1} and any("1 of 3 files of train.csv" in note for note in data.notes)


# ---- Detection ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"annotations/instances_train2017": "train2017", "annotations/instances_val2017": "val2017"}, "boxes"),
        ({"train/_annotations.coco": "train", "valid/_annotations.coco": "valid"}, "boxes"),
        ({"train": "images/train", "val": "images/val"}, "boxes"),
        ({"labels": "images"}, "masks"),
    ],
)
def test_coco_layouts(files, kind, folder):
    for name, images in files.items():
        write_coco(folder, name, images, **(dict(segmentation=box_to_polygon) if kind == "masks" else {}))
    data = read(folder, "boxes")
    assert (data.kind, data.classes) == (kind, NAMES)
    assert count(data) == ({"train": 6, "val": 6} if len(files) == 2 else {"train": 5, "val": 1})
    for split, part in data.splits.items():
        content = json.loads(part.ann_file.read_text())
        assert all((part.image_root / image["file_name"]).is_file() for image in content["images"])
        assert part.counts == {"cell": part.images, "dust": part.images}, split
    if len(files) == 2:  # files that need no change stay where they are
        assert all(part.ann_file.is_relative_to(folder) for part in data.splits.values())


def test_coco_file_that_has_to_be_completed(folder):
    path = write_coco(folder, "labels", "pictures", number=5)
    content = json.loads(path.read_text())
    content["categories"].insert(0, dict(id=0, name="cells", supercategory="none"))  # as Roboflow writes it
    for category in content["categories"][1:]:
        category["supercategory"] = "cells"
    for image in content["images"]:
        image.pop("width")
        image["file_name"] = f"C:\\export\\{image['file_name']}"
    content["images"].append(dict(id=77, file_name="lost.jpg", width=1, height=1))
    for item in content["annotations"]:
        del item["area"], item["iscrowd"], item["id"]
    path.write_text(json.dumps(content))
    data = read(folder, "boxes")
    assert data.classes == NAMES and count(data) == {"train": 4, "val": 1}
    assert any("1 of 6 images of labels.json do not exist" in note for note in data.notes)
    content = json.loads(data.splits["train"].ann_file.read_text())
    assert (
        content["images"][0]["width"] == 64
        and (data.splits["train"].image_root / content["images"][0]["file_name"]).is_file()
    )
    assert all(item["id"] > 0 and item["area"] > 0 and item["iscrowd"] == 0 for item in content["annotations"])
    assert [category["id"] for category in content["categories"]] == [1, 2]


def test_categories_in_another_order(folder):
    write_coco(folder, "train", "train")
    path = write_coco(folder, "val", "val")
    content = json.loads(path.read_text())
    content["categories"] = [dict(id=1, name="dust"), dict(id=2, name="cell")]
    for item in content["annotations"]:
        item["category_id"] = 3 - item["category_id"]
    path.write_text(json.dumps(content))
    data = read(folder, "boxes")
    val = json.loads(data.splits["val"].ann_file.read_text())
    assert data.classes == NAMES and [c["name"] for c in val["categories"]] == NAMES
    assert val["annotations"][0]["category_id"] == 1 and val["annotations"][0]["bbox"] == make_boxes(0)[0][1]


@pytest.mark.parametrize("lists", [True, False])
def test_voc(lists, folder):
    data = read(write_voc(folder, lists=lists), "boxes")
    assert data.classes == NAMES and count(data) == ({"train": 4, "val": 2} if lists else {"train": 5, "val": 1})
    content = json.loads(data.splits["train"].ann_file.read_text())
    first = content["images"][0]
    seed = int(Path(first["file_name"]).stem)
    boxes = [item["bbox"] for item in content["annotations"] if item["image_id"] == first["id"]]
    assert boxes == [box for _, box in make_boxes(seed)] and (first["width"], first["height"]) == (64, 48)
    assert [item["iscrowd"] for item in content["annotations"]].count(1) == 2 * any(
        Path(image["file_name"]).stem == "000" for image in content["images"]
    )


@pytest.mark.parametrize("layout", ["{split}/images/{i}.jpg", "images/{split}/{i}.jpg"])
@pytest.mark.parametrize("polygons", [False, True])
def test_yolo(layout, polygons, folder):
    write_yolo(folder, layout, polygons=polygons)
    data = read(folder, "boxes")
    assert data.kind == ("masks" if polygons else "boxes")
    assert data.classes == NAMES and count(data) == {"train": 4, "val": 4}
    content = json.loads(data.splits["val"].ann_file.read_text())
    np.testing.assert_allclose(content["annotations"][0]["bbox"], make_boxes(0)[0][1], atol=1e-3)


def test_yolo_with_wrong_lines_and_images_without_labels(folder):
    write_yolo(folder)
    (folder / "train/labels/0.txt").write_text("0 0.5 0.5 0.2\n1 0.5 0.5 0.2 0.2\n")
    (folder / "train/labels/1.txt").unlink()
    data = read(folder, "boxes")
    assert data.splits["train"].counts == {"cell": 2, "dust": 3} and data.splits["train"].images == 4
    assert sum("left out" in note or "without objects" in note for note in data.notes) == 2


def test_yolo_beside_the_images(folder):
    for i in range(6):
        write_image(folder / f"{i}.jpg", seed=i)
        (folder / f"{i}.txt").write_text("1 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.25 0.25\n")
    (folder / "classes.txt").write_text("cell\ndust\n")
    data = read(folder, "boxes")
    assert data.classes == NAMES and count(data) == {"train": 5, "val": 1}


def test_yolo_with_more_classes_than_names(folder):
    write_yolo(folder)
    (folder / "train/labels/0.txt").write_text("7 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match="class 7, but data.yaml has 2 names"):
        read_folder(folder, "boxes")


# ---- Keypoints ------------------------------------------------------------------------------------------------------
def test_keypoints(folder):
    path = write_coco(folder, "people", "images", keypoints=[5, 5, 2, 9, 9, 1, 0, 0, 0])
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category |= dict(keypoints=["nose", "Left_Eye", "Right_Eye"], skeleton=[[1, 2], [1, 3]])
    path.write_text(json.dumps(content))
    data = read(folder, "keypoints")
    assert data.kind == "keypoints" and count(data) == {"train": 5, "val": 1}
    assert data.keypoints == dict(names=["nose", "Left_Eye", "Right_Eye"], skeleton=[[0, 1], [0, 2]], swap=[0, 2, 1])


def test_keypoints_of_yolo(folder):
    write_yolo(folder)
    for path in folder.glob("*/labels/*.txt"):
        path.write_text("0 0.5 0.5 0.5 0.5 0.25 0.5 2 0.75 0.5 0\n")
    (folder / "data.yaml").write_text("names: [cell, dust]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n")
    data = read(folder, "keypoints")
    item = json.loads(data.splits["train"].ann_file.read_text())["annotations"][0]
    assert item["keypoints"] == [16, 24, 2, 0, 0, 0] and item["num_keypoints"] == 1 and item["bbox"] == [16, 12, 32, 24]
    assert data.keypoints["swap"] == [1, 0]


# ---- Label maps -----------------------------------------------------------------------------------------------------
PAIRS = [
    ("images/{i}.jpg", "masks/{i}.png"),
    ("img_dir/{s}/{i}.jpg", "ann_dir/{s}/{i}.png"),
    ("images/{s}/{i}.jpg", "annotations/{s}/{i}.png"),
    ("{s}/{i}.png", "{s}annot/{i}.png"),
    ("{s}/images/{i}.JPG", "{s}/labels/{i}.png"),
    ("JPEGImages/{i}.jpg", "SegmentationClass/{i}.png"),
    ("leftImg8bit/{s}/bonn/{i}_leftImg8bit.png", "gtFine/{s}/bonn/{i}_gtFine_labelIds.png"),
    ("{i}.jpg", "{i}_mask.png"),
    ("{i}.jpg", "{i}.png"),
    ("images/{i}.png", "labels/{i}_L.png"),
]


@pytest.mark.parametrize(("image", "label"), PAIRS, ids=[image for image, _ in PAIRS])
def test_label_map_layouts(image, label, folder):
    for s in ("train", "val"):
        for i in range(5):
            name = f"{i}" if "{s}" in image else f"{s}{i}"
            write_image(folder / image.format(s=s, i=name))
            write_map(folder / label.format(s=s, i=name), [0, 1, 2])
    data = read(folder, "label maps")
    assert (data.kind, data.classes, data.label_map) == ("label maps", ["class_0", "class_1", "class_2"], [])
    assert count(data) == ({"train": 5, "val": 5} if "{s}" in image else {"train": 8, "val": 2})
    for part in data.splits.values():
        for line in part.ann_file.read_text().splitlines():
            first, second = line.split("\t")
            assert first != second and (folder / first).is_file() and (folder / second).is_file()
            assert Path(second).stem.startswith(Path(first).stem.removesuffix("_leftImg8bit"))


def write_pairs(folder: Path, values) -> Path:
    for i in range(5):
        write_image(folder / f"images/{i}.jpg")
        write_map(folder / f"masks/{i}.png", values)
    return folder


@pytest.mark.parametrize(
    ("values", "ignored", "classes", "label_map"),
    [
        ([0, 1, 11], 11, ["class_0", "class_1"], [(11, 255)]),
        ([0, 1, 2, 255], None, ["class_0", "class_1", "class_2"], []),
        ([0, 1, 2], 0, ["class_1", "class_2"], [(1, 0), (2, 1), (0, 255)]),
        ([0, 255], None, ["background", "foreground"], [(255, 1)]),
        ([10, 20, 30], None, ["class_10", "class_20", "class_30"], [(10, 0), (20, 1), (30, 2)]),
        ([0, 1, 3], None, ["class_0", "class_1", "class_2", "class_3"], []),
    ],
)
def test_values_of_label_maps(values, ignored, classes, label_map, folder):
    data = read(write_pairs(folder, values), "label maps", ignored=ignored)
    assert (data.classes, data.label_map) == (classes, label_map)


def test_names_of_label_maps(folder):
    write_pairs(folder, [0, 1, 3])
    (folder / "classes.txt").write_text("soil\ncrop\nweed\nvoid\n")
    assert read(folder, "label maps").classes == ["soil", "crop", "weed", "void"]
    assert read(folder, "label maps", ignored=3).classes == ["soil", "crop", "weed"]
    (folder / "classes.txt").write_text("soil\ncrop\n")
    with pytest.raises(UserError, match="values 3, but there are 2 names.*--ignore-index"):
        read_folder(folder, "label maps")


def test_colored_label_maps(folder):
    write_pairs(folder, [[0, 0, 0], [128, 0, 0], [0, 128, 0]])
    (folder / "class_dict.csv").write_text("name,r,g,b\ngrass,0,128,0\nroad,0,0,0\ncar,128,0,0\n")
    data = read(folder, "label maps")
    assert data.classes == ["grass", "road", "car"] and data.palette[0] == [0, 128, 0]
    _, label = data.splits["train"].ann_file.read_text().splitlines()[0].split("\t")
    values = np.asarray(Image.open(folder / label))
    assert values[0, 0] == 1 and values[0, -1] == 0 and values.ndim == 2


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda folder: None, "classes", "no such folder"),
        (lambda folder: folder.mkdir(), "classes", "no image"),
        (lambda folder: write_image(folder / "a.jpg"), "boxes", "layout is not known"),
        (lambda folder: write_image(folder / "one/a.jpg"), "classes", "one class only"),
        (lambda folder: write_pairs(folder, [7]), "label maps", "one class only"),
        (
            lambda folder: (write_image(folder / "a.jpg"), (folder / "annotations.json").write_text("{")),
            "boxes",
            "JSON",
        ),
        (lambda folder: (write_coco(folder, "train_a", "a"), write_coco(folder, "train_b", "b")), "boxes", "two"),
    ],
)
def test_unusable_folders(make, kind, words, folder):
    make(folder)
    with pytest.raises(UserError, match=words):
        read_folder(folder, kind)
