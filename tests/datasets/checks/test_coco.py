"""Each mishap in a COCO file is one message before training starts."""

import json
from pathlib import Path

import pytest

from tests.datasets.checks.coco_data import (
    BOXES,
    CLASSES,
    MASKS,
    assert_found,
    find_messages,
    make_config,
    make_content,
    make_dataset,
    write,
)
from van_mm.utils.errors import UserError

METRIC = dict(type="CocoMetric", metric="bbox")


def make_split_config(root, train=None, val=None, steps=BOXES, evaluator=None, **settings):
    """Write a training and a validation file, and return a config of both."""
    files = [write(root / name, content or make_content(), name) for name, content in (("train", train), ("val", val))]
    return make_config(
        train=make_dataset(files[0], steps=steps, **settings),
        val=make_dataset(files[1], test_mode=True, steps=steps, **settings),
        val_evaluator=METRIC | dict(ann_file=files[1]) | (evaluator or {}),
    )


def change(content: dict, **values) -> dict:
    """Set values of all annotations. A function gets the annotation. None as value deletes the key."""
    for annotation in content["annotations"]:
        for key, value in values.items():
            value = value(annotation) if callable(value) else value
            if value is None:
                del annotation[key]
            else:
                annotation[key] = value
    return content


def test_healthy_data(tmp_path):
    assert find_messages(make_split_config(tmp_path, steps=MASKS, evaluator=dict(metric=["bbox", "segm"]))) == {}


@pytest.mark.parametrize("split", ["train", "val"])
def test_order_of_categories(tmp_path, split):
    permuted = make_content(("owl", "cat", "dog"))
    cfg = make_split_config(tmp_path, **{split: permuted})
    assert_found(cfg, f"{split}.json are in the order owl, cat, dog", f"{split} data set", "cat, dog, owl")


def test_order_of_categories_in_test_and_wrappers(tmp_path):
    healthy = make_dataset(write(tmp_path / "a", make_content()))
    permuted = make_dataset(write(tmp_path / "b", make_content(("dog", "owl", "cat"))))
    wrapped = dict(type="ConcatDataset", datasets=[healthy, dict(type="RepeatDataset", times=2, dataset=permuted)])
    balanced = dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=permuted)
    mixed = dict(type="MultiImageMixDataset", dataset=permuted, pipeline=[])
    for dataset in (wrapped, balanced, mixed):
        assert_found(make_config(train=dataset), "order dog, owl, cat")
    assert_found(make_config(test=permuted), "test data set", "order dog, owl, cat")


def test_subset_of_categories_is_healthy(tmp_path):
    file = write(tmp_path, make_content(("zebra", "cat", "dog", "owl")))
    assert find_messages(make_config(train=make_dataset(file, metainfo=dict(classes=("cat", "owl"))))) == {}
    assert_found(make_config(train=make_dataset(file, metainfo=dict(classes=("owl", "cat")))), "order cat, owl")


def test_names_twice(tmp_path):
    content = make_content()
    content["categories"].append(dict(id=77, name="dog"))
    assert_found(make_split_config(tmp_path, train=content), "name dog more than once")


@pytest.mark.parametrize(
    ("values", "words", "is_error"),
    [
        (dict(area=0), ("18 of 18", "'area' of 0"), True),
        (dict(area=lambda a: 0 if a["category_id"] == 10 else 9), ("6 of 18", "'area' of 0"), False),
        (dict(bbox=lambda a: [v / 64 for v in a["bbox"]]), ("18 of 18", "under one pixel", "relative"), True),
        (dict(bbox=lambda a: [0.1, 0.1, 0.2, 0.2] if a["id"] == 1 else a["bbox"]), ("1 of 18", "relative"), False),
        (dict(bbox=lambda a: [*a["bbox"][:2], 0, 4]), ("18 of 18", "without width or height"), True),
        (dict(bbox=lambda a: [100, 100, 5, 5]), ("18 of 18", "outside of their image"), True),
        (dict(bbox=lambda a: [20 + a["id"] % 3, 20, 50, 40]), ("18 of 18 boxes", "corners"), True),
        (dict(bbox=lambda a: [30, 20, 25, 15] if a["id"] > 9 else [40, 9, 30, 9]), ("9 of 18 boxes", "beyond"), False),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes(tmp_path, split, values, words, is_error):
    cfg = make_split_config(tmp_path, **{split: change(make_content(), **values)})
    assert_found(cfg, f"{split}.json", *words, is_error=is_error)


def test_boxes_of_xml_files(tmp_path):
    pytest.importorskip("mmdet")
    (tmp_path / "Annotations").mkdir()
    boxes = "".join(
        f"<object><name>cat</name><difficult>0</difficult><bndbox><xmin>{x}</xmin><ymin>5</ymin><xmax>{x}</xmax>"
        "<ymax>9</ymax></bndbox></object>"
        for x in (5, 9)
    )
    (tmp_path / "Annotations" / "1.xml").write_text(
        f"<annotation><size><width>64</width><height>48</height></size>{boxes}</annotation>"
    )
    (tmp_path / "train.txt").write_text("1\n")
    write(tmp_path, make_content(number=1))
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    dataset = dict(
        type="XMLDataset", data_root=str(tmp_path), ann_file="train.txt", data_prefix=dict(sub_data_root=""),
        metainfo=dict(classes=CLASSES), pipeline=[dict(type="LoadImageFromFile"), *BOXES], img_subdir="JPEGImages",
    )  # fmt: skip
    assert_found(make_config(train=dataset), "2 of 2 boxes", "under one pixel")


def test_ids_from_0(tmp_path):
    cfg = make_split_config(tmp_path, train=make_content(first=0), val=make_content(first=0))
    assert_found(cfg, "val.json has the id 0", "18 objects")
    assert find_messages(make_split_config(tmp_path / "only_train", train=make_content(first=0))) == {}


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_ids_twice(tmp_path, section):
    content = make_content()
    content[section][1]["id"] = content[section][0]["id"]
    try:
        assert_found(make_split_config(tmp_path, train=content), f"'{section}'", "more than once")
    except UserError as error:  # mmdet checks the ids of annotations itself
        assert f"'{section}'" in str(error)
        assert "more than once" in str(error)


@pytest.mark.parametrize("key", ["area", "bbox", "category_id", "image_id", "id"])
@pytest.mark.parametrize("wrap", [False, True])
def test_missing_keys_of_annotations(tmp_path, key, wrap):
    dataset = make_dataset(write(tmp_path, change(make_content(), **{key: None})))
    if wrap:
        dataset = dict(type="RepeatDataset", times=2, dataset=dataset)
    with pytest.raises(UserError, match=f"18 of 18 'annotations' of train.json have no '{key}'. Add"):
        find_messages(make_config(train=dataset))


@pytest.mark.parametrize("key", ["width", "file_name"])
def test_missing_keys_of_images(tmp_path, key):
    content = make_content()
    file = write(tmp_path, content)
    for image in content["images"]:
        del image[key]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"6 of 6 'images' of train.json have no '{key}'. Add"):
        find_messages(make_config(train=make_dataset(file)))


def test_missing_iscrowd(tmp_path):
    content = change(make_content(), iscrowd=None)
    assert_found(make_split_config(tmp_path, val=content), "18 of 18", "val.json have no 'iscrowd'", "CocoMetric")
    assert find_messages(make_split_config(tmp_path / "train", train=content)) == {}


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [([], "have no mask"), (None, "have no mask"), ([[5, 5, 9, 9]], "less than three points"), ([[]], "three points")],
)
def test_masks(tmp_path, segmentation, words):
    content = make_content()
    content["annotations"][3]["segmentation"] = segmentation
    is_error = words == "have no mask"
    assert find_messages(make_split_config(tmp_path / "boxes", train=content)) == {}
    assert_found(make_split_config(tmp_path / "train", train=content, steps=MASKS), "1 of 18", words, is_error=is_error)
    metric = dict(metric=["bbox", "segm"])
    cfg = make_split_config(tmp_path / "val", val=content, evaluator=metric)
    assert_found(cfg, "1 of 18", "val.json", words)
    del content["annotations"][3]["segmentation"]
    assert_found(make_split_config(tmp_path / "none", train=content, steps=MASKS), "1 of 18", "have no mask")


@pytest.mark.parametrize(("key", "section"), [("image_id", "images"), ("category_id", "categories")])
def test_unknown_ids(tmp_path, key, section):
    content = make_content()
    content["annotations"][0][key] = 1234
    cfg = make_split_config(tmp_path, train=content)
    assert_found(cfg, "1 of 18", key, section, "1234", is_error=False)
    cfg = make_split_config(tmp_path, train=change(content, **{key: 1234}))
    assert_found(cfg, "18 of 18", key, section)


def test_no_annotations(tmp_path):
    content = make_content()
    content["annotations"] = []
    assert_found(make_split_config(tmp_path, train=content), "train.json has no annotations")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_string_of_classes_and_list_of_files(tmp_path, split):
    dataset = make_dataset(write(tmp_path, make_content(("cat",))), metainfo=dict(classes="cat"))
    wrapped = dict(type="RepeatDataset", times=2, dataset=dataset)
    with pytest.raises(UserError, match=r"the string 'cat'.*\('cat',\)"):
        find_messages(make_config(**{split: wrapped}))
    with pytest.raises(UserError, match=f"ann_file of the {split} data set is a list.*ConcatDataset"):
        find_messages(make_config(**{split: dataset | dict(ann_file=["a.json", "b.json"])}))


@pytest.mark.parametrize(
    ("scope", "dataset"),
    [
        ("mmseg", dict(type="BaseSegDataset", metainfo=dict(classes="road"))),
        ("mmpretrain", dict(type="CustomDataset", classes="road")),
    ],
)
def test_string_of_classes_of_other_codebases(scope, dataset):
    with pytest.raises(UserError, match=r"the string 'road'.*\('road',\)"):
        find_messages(make_config(scope, train=dataset))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("annotations", "bbox", ["3", "6", "12", "10"]),
        ("annotations", "bbox", [float("nan"), 6, 12, 10]),
        ("annotations", "bbox", None),
        ("annotations", "bbox", []),
        ("annotations", "area", "120"),
        ("images", "height", "48"),
        ("images", "width", None),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_wrong_values(tmp_path, section, key, value, split):
    content = make_content()
    file = write(tmp_path, content)
    content[section][1][key] = value
    Path(file).write_text(json.dumps(content))
    cfg = make_config(**{split: make_dataset(file, split != "train")})
    try:
        messages = list(find_messages(cfg))
    except UserError as error:
        messages = [str(error)]
    total = len(content[section])
    words = (f"1 of {total} '{section}' of", f"have a wrong '{key}', for instance {value!r} with the id 2. Write")
    assert any(all(word in message for word in words) for message in messages), messages


@pytest.mark.parametrize("counts", [[100, 10, 2962], "PP25\\1"])
def test_size_of_encoded_masks(tmp_path, counts):
    content = make_content()
    for annotation in content["annotations"]:
        annotation["segmentation"] = dict(size=[64, 48], counts=counts)
    cfg = make_config(train=make_dataset(write(tmp_path, content), steps=MASKS))
    assert_found(cfg, "18 of 18 annotations", "[64, 48] for image 1 of [48, 64]", "[height, width]")
