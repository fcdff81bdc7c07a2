"""Class counts of heads for things and stuff that do not fit the data are named before training starts."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.datasets.checks.coco_data import assert_found, find_messages, make_config, make_content, make_dataset, write
from van_mm.datasets.checks.files import check_data_files
from van_mm.utils.errors import UserError

NAMES = ("cat", "dog", "owl", "sky", "grass")


def make_model(things: int, stuff: int, fusion: tuple | None = None, weights: int | None = None) -> dict:
    """Return the parts of a Mask2Former that count classes."""
    fusion = fusion or (things, stuff)
    return dict(
        type="Mask2Former",
        panoptic_head=dict(
            type="Mask2FormerHead",
            num_things_classes=things,
            num_stuff_classes=stuff,
            loss_cls=dict(class_weight=[1.0] * (weights or things + stuff + 1)),
        ),
        panoptic_fusion_head=dict(
            type="MaskFormerFusionHead", num_things_classes=fusion[0], num_stuff_classes=fusion[1]
        ),
    )


def write_panoptic(root, names=NAMES, stuff=("sky", "grass"), **values) -> str:
    """Write a panoptic file with one segment of each category in each image."""
    content = make_content(number=3)
    content["categories"] = [
        dict(id=NAMES.index(name) + 1, name=name, isthing=int(name not in stuff)) for name in names
    ]
    content["annotations"] = []
    (root / "maps").mkdir(parents=True)
    for image in content["images"]:
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(root / "maps" / f"{image['id']}.png")
        segments = [
            dict(id=k + 1, category_id=category["id"], bbox=[4 * k, 3, 8, 9], area=72, iscrowd=0) | values
            for k, category in enumerate(content["categories"])
        ]
        content["annotations"].append(
            dict(image_id=image["id"], file_name=f"{image['id']}.png", segments_info=segments)
        )
    return write(root, content)


def make_panoptic_config(root, model: dict, split: str = "train", metainfo: dict | None = None, **settings):
    metainfo = metainfo or dict(classes=NAMES, thing_classes=NAMES[:3], stuff_classes=NAMES[3:])
    dataset = dict(
        type="CocoPanopticDataset",
        data_root=str(root),
        ann_file="train.json",
        data_prefix=dict(img="images/", seg="maps/"),
        metainfo=metainfo,
        pipeline=[dict(type="LoadImageFromFile")],
    )
    return make_config(model=model, **{split: dataset}, **settings)


def test_counts(tmp_path):
    write_panoptic(tmp_path)
    assert find_messages(make_panoptic_config(tmp_path, make_model(3, 2))) == {}
    for split in ("train", "val"):
        for things, stuff, key in ((2, 2, "num_things_classes is 2"), (80, 2, "num_things_classes is 80")):
            cfg = make_panoptic_config(tmp_path, make_model(things, stuff, fusion=(3, 2)), split)
            assert_found(cfg, f"panoptic_head.{key}", f"{split} data set has 3 thing classes", "class_weight to 6")
        cfg = make_panoptic_config(tmp_path, make_model(3, 2, fusion=(3, 53)), split)
        assert_found(cfg, "panoptic_fusion_head.num_stuff_classes is 53", "2 stuff classes")


@pytest.mark.parametrize("weights", [5, 7, 134])
def test_class_weight(tmp_path, weights):
    write_panoptic(tmp_path)
    cfg = make_panoptic_config(tmp_path, make_model(3, 2, weights=weights))
    assert_found(cfg, f"class_weight has {weights} weights", "is 5", "[1.0] * 5 + [0.1]")


def test_class_weight_of_segmentation(tmp_path):
    head = dict(type="Mask2FormerHead", num_classes=4, loss_cls=dict(class_weight=[1.0] * 151))
    cfg = make_config("mmseg", dict(type="EncoderDecoder", decode_head=head))
    assert_found(cfg, "model.decode_head.loss_cls.class_weight has 151 weights", "num_classes is 4", "* 4 + [0.1]")


@pytest.mark.parametrize(("things", "is_right"), [(3, True), (2, False), (80, False)])
def test_instances(tmp_path, things, is_right):
    dataset = make_dataset(write(tmp_path, make_content()))
    wrapped = dict(type="RepeatDataset", times=2, dataset=dataset)
    for outer in (dataset, wrapped):
        cfg = make_config(model=make_model(things, 0, fusion=(3, 0)), train=outer)
        if is_right:
            assert find_messages(cfg) == {}
        else:
            assert_found(cfg, f"panoptic_head.num_things_classes is {things}", "3 thing classes")


def test_order_of_things_and_stuff(tmp_path):
    names = ("sky", "cat", "dog", "owl", "grass")
    write_panoptic(tmp_path, names)
    metainfo = dict(classes=names, thing_classes=names[1:4], stuff_classes=("sky", "grass"))
    cfg = make_panoptic_config(tmp_path, make_model(3, 2), metainfo=metainfo)
    assert_found(cfg, "thing classes owl after stuff", "things come first")
    write_panoptic(tmp_path / "permuted", ("dog", "cat", "owl", "sky", "grass"))
    assert_found(make_panoptic_config(tmp_path / "permuted", make_model(3, 2)), "order dog, cat, owl")


def test_thing_classes_of_metainfo(tmp_path):
    write_panoptic(tmp_path)
    metainfo = dict(classes=NAMES, thing_classes=("cat", "dog"), stuff_classes=("owl", "sky", "grass"))
    cfg = make_panoptic_config(tmp_path, make_model(3, 2), metainfo=metainfo)
    assert_found(cfg, "do not agree about owl", "thing_classes")


def test_segments_are_checked(tmp_path):
    write_panoptic(tmp_path / "area", area=0)
    assert_found(make_panoptic_config(tmp_path / "area", make_model(3, 2)), "15 of 15", "'area' of 0")
    write_panoptic(tmp_path / "box", bbox=[0.1, 0.1, 0.5, 0.5])
    assert_found(make_panoptic_config(tmp_path / "box", make_model(3, 2)), "15 of 15", "relative")
    write_panoptic(tmp_path / "category")
    cfg = make_panoptic_config(tmp_path / "category", make_model(3, 1), metainfo=dict(classes=NAMES[:4]))
    with pytest.raises(UserError, match="category 5, 'grass', which is not in metainfo.classes. "):
        find_messages(cfg)


def test_metric(tmp_path):
    file = write_panoptic(tmp_path)

    def make_evaluated(**evaluator):
        evaluator = dict(type="CocoPanopticMetric", ann_file=file, seg_prefix=str(tmp_path / "maps")) | evaluator
        return make_panoptic_config(tmp_path, make_model(3, 2), "val", val_evaluator=evaluator)

    assert find_messages(make_evaluated()) == {}
    assert_found(make_evaluated(seg_prefix=None), "seg_prefix is not set")
    assert_found(make_evaluated(seg_prefix="nowhere"), "nowhere does not exist")
    assert_found(make_evaluated(ann_file=None), "has no ann_file", "segments_info")
    content = json.loads((tmp_path / "train.json").read_text())
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            del segment["iscrowd"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert_found(make_evaluated(), "15 of 15", "have no 'iscrowd'")


def test_metric_of_instances(tmp_path):
    write_panoptic(tmp_path)
    instances = write(tmp_path / "instances", make_content(number=3))
    evaluator = [
        dict(type="CocoPanopticMetric", ann_file=str(tmp_path / "train.json"), seg_prefix=str(tmp_path / "maps")),
        dict(type="CocoMetric", ann_file=instances, metric=["bbox", "segm"]),
    ]
    assert find_messages(make_panoptic_config(tmp_path, make_model(3, 2), "val", val_evaluator=evaluator)) == {}
    evaluator[1]["ann_file"] = write(tmp_path / "permuted", make_content(("owl", "dog", "cat"), number=3))
    cfg = make_panoptic_config(tmp_path, make_model(3, 2), "val", val_evaluator=evaluator)
    assert_found(cfg, "order owl, dog, cat there")


def test_instance_config_does_not_ask_for_panoptic_folders(tmp_path):
    dataset = make_dataset(write(tmp_path, make_content()), data_prefix=dict(img="images/", seg="nowhere/"))
    for outer in (dataset, dict(type="RepeatDataset", times=2, dataset=dataset)):
        check_data_files(make_config(train=outer), ("train",))
    load_maps = [dict(type="LoadAnnotations", with_bbox=True, with_seg=True)]
    for changes in (dict(type="CocoPanopticDataset"), dict(pipeline=load_maps)):
        with pytest.raises(UserError, match="nowhere"):
            check_data_files(make_config(train=dataset | changes), ("train",))
