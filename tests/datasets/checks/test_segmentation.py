"""Label maps and settings of segmentation that would give wrong figures are named before training starts."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.datasets.checks.coco_data import assert_found, find_messages, make_config
from van_mm.datasets.checks import segmentation
from van_mm.datasets.checks.samples import find_sample_problems
from van_mm.datasets.checks.segmentation import MAX_MAPS, get_ignored_labels

LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
NAMES = ("sky", "road", "tree")
HEAD = dict(type="FCNHead", num_classes=3, loss_decode=dict(type="CrossEntropyLoss"))


def write_maps(root: Path, maps: list, suffix: str = ".png", split: str = "train", **options) -> None:
    """Write images and label maps. A map is an array or a Pillow image."""
    for folder in ("images", "maps"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    for index, labels in enumerate(maps):
        picture = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
        Image.new("RGB", picture.size).save(root / split / "images" / f"{index:03d}.jpg")
        picture.save(root / split / "maps" / f"{index:03d}{suffix}", **options)


def make_labels(*values: int, dtype=np.uint8) -> np.ndarray:
    """Return a map (8, 4 n) of equal stripes of these values."""
    return np.repeat(np.array(values, dtype), 4)[None].repeat(8, 0)


def make_dataset(root: Path, split: str = "train", names=NAMES, steps=LOAD, suffix: str = ".png", **settings) -> dict:
    return dict(
        type="BaseSegDataset",
        data_root=str(root / split),
        data_prefix=dict(img_path="images", seg_map_path="maps"),
        seg_map_suffix=suffix,
        metainfo=dict(classes=names, palette=[[index] * 3 for index in range(len(names))]),
        pipeline=steps,
    ) | dict(settings)


def make_seg_config(root: Path, split: str = "train", head=HEAD, model=None, evaluator=None, **settings) -> Config:
    evaluators = {f"{split}_evaluator": evaluator} if evaluator else {}
    dataset = make_dataset(root, split, **settings)
    if isinstance(head, dict):
        head = head | dict(num_classes=head.get("num_classes", len(dataset["metainfo"]["classes"])))
    return make_config("mmseg", dict(decode_head=head) | (model or {}), **{split: dataset}, **evaluators)


def make_binary_config(root: Path, **settings) -> Config:
    return make_seg_config(root, names=("background", "road"), head=HEAD | dict(num_classes=2), **settings)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_healthy_maps(tmp_path, split):
    write_maps(tmp_path, [make_labels(0, 1, 2, 255)] * 3, split=split)
    assert find_messages(make_seg_config(tmp_path, split)) == {}


@pytest.mark.parametrize("mode", ["L", "P", "1", "16 bit"])
def test_healthy_formats(tmp_path, mode):
    labels = Image.fromarray(make_labels(0, 1))
    if mode == "P":
        labels.putpalette([9, 0, 0, 0, 200, 7])
    elif mode == "1":
        labels = Image.fromarray(make_labels(0, 1).astype(bool))
    elif mode == "16 bit":
        labels = Image.fromarray(make_labels(0, 1, dtype=np.uint16))
    write_maps(tmp_path, [labels] * 2)
    assert find_messages(make_binary_config(tmp_path)) == {}


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_values_beyond_8_bits(tmp_path, split, suffix):
    write_maps(tmp_path, [make_labels(256, 257, 300, dtype=np.uint16)] * 2, suffix, split)
    cfg = make_seg_config(tmp_path, split, suffix=suffix)
    assert_found(cfg, f"2 of 2 label maps of the {split} data set", "256, 257, 300", "256 becomes 0", "8 bits")


def test_one_map_of_many_has_16_bits(tmp_path):
    maps = [make_labels(0, 1, 2)] * (3 * MAX_MAPS)
    maps[40] = make_labels(0, 1, 300, dtype=np.uint16)
    write_maps(tmp_path, maps)
    dataset = dict(type="RepeatDataset", times=2, dataset=make_dataset(tmp_path))
    cfg = make_config("mmseg", dict(decode_head=HEAD), train=dataset)
    assert_found(cfg, "the values 300", "040.png", f"a sample of {3 * MAX_MAPS}")


@pytest.mark.parametrize(
    ("mode", "words"),
    [("RGB", "3 channels (red, green, blue)"), ("RGBA", "4 channels"), ("LA", "2 channels (gray, alpha)")],
)
def test_channels(tmp_path, mode, words):
    write_maps(tmp_path, [Image.fromarray(make_labels(0, 1, 2)).convert(mode)] * 2)
    assert_found(make_seg_config(tmp_path), words, "one channel of labels")
    cfg = make_seg_config(tmp_path)
    (_, (problem,)) = find_sample_problems(build(cfg), 1)
    assert words.split(" (")[0].split()[0] in problem and "001.png" in problem


def build(cfg: Config):
    from mmengine.registry import DATASETS, DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        return DATASETS.build(cfg.train_dataloader.dataset)


def test_large_maps_are_sampled(tmp_path, monkeypatch):
    """A map of another format is read first, and the number of pixels limits how many others are."""
    monkeypatch.setattr(segmentation, "MAX_PIXELS", 3 * 96)
    maps = [make_labels(0, 1, 2)] * 9 + [make_labels(0, 1, 300, dtype=np.uint16)]
    write_maps(tmp_path, maps)
    assert_found(make_seg_config(tmp_path), "1 of 3 label maps (a sample of 10)", "009.png", "the values 300")


def test_palette_images_and_decoders(tmp_path):
    labels = Image.fromarray(make_labels(0, 1, 2))
    labels.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    write_maps(tmp_path, [labels] * 2)
    assert find_messages(make_seg_config(tmp_path)) == {}
    steps = [LOAD[0], LOAD[1] | dict(imdecode_backend="cv2")]
    assert_found(make_seg_config(tmp_path, steps=steps), "a palette image", "cv2", "imdecode_backend='pillow'")


def test_jpeg_maps(tmp_path):
    write_maps(tmp_path, [make_labels(1)] * 2, ".jpg", quality=100)
    cfg = make_seg_config(tmp_path, suffix=".jpg")
    assert_found(cfg, "2 of 2 label maps", "JPEG", "PNG", is_error=False)


@pytest.mark.parametrize("split", ["train", "val"])
def test_ignored_foreground(tmp_path, split):
    write_maps(tmp_path, [make_labels(0, 0, 0, 255)] * 3, split=split)
    cfg = make_binary_config(tmp_path, split=split)
    words = ("class 1 (road) never occurs", "255 is 25 % of the pixels and is ignored: is it your foreground?")
    assert_found(cfg, *words, is_error=split == "train")


def test_ignored_foreground_of_several_classes(tmp_path):
    write_maps(tmp_path, [make_labels(0, 1, 1, 255)] * 3)
    assert_found(make_seg_config(tmp_path), "class 2 (tree) never occurs", "255 is 25 %", is_error=False)


def test_reduce_zero_label_ignores_background(tmp_path):
    write_maps(tmp_path, [make_labels(0, 0, 0, 1)] * 3)
    cfg = make_binary_config(tmp_path, reduce_zero_label=True)
    assert_found(cfg, "class 1 (road) never occurs", "0 is 75 %", "reduce_zero_label=True")


def test_rare_class_is_healthy(tmp_path):
    maps = [make_labels(0, 0, 255)] * (2 * MAX_MAPS)
    maps[33] = make_labels(0, 1, 255)
    write_maps(tmp_path, maps)
    assert find_messages(make_binary_config(tmp_path)) == {}


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_beyond_classes(tmp_path, split):
    write_maps(tmp_path, [make_labels(0, 1, 2, 7)] * 2, split=split)
    cfg = make_seg_config(tmp_path, split)
    assert_found(cfg, "the labels 7", "3 classes (sky, road, tree)", "from 0", is_error=split == "train")


def test_subset_of_classes_is_healthy(tmp_path):
    write_maps(tmp_path, [make_labels(1, 14, 140, 150)] * 2)
    names = ("building", "door")
    settings = dict(type="ADE20KDataset", metainfo=dict(classes=names), reduce_zero_label=True)
    assert not [text for text in find_messages(make_binary_config(tmp_path, **settings)) if "labels" in text]


def test_ignore_index(tmp_path):
    write_maps(tmp_path, [make_labels(0, 1, 2, 11)] * 2)
    cfg = make_seg_config(tmp_path, head=HEAD | dict(ignore_index=11))
    assert find_messages(cfg) == {}
    assert find_sample_problems(build(cfg), 0, get_ignored_labels(cfg))[1] == []
    assert_found(make_seg_config(tmp_path), "the labels 11", "the ignored label 255")
    heads = dict(auxiliary_head=[dict(type="FCNHead", num_classes=3)])
    cfg = make_seg_config(tmp_path, head=HEAD | dict(ignore_index=11), model=heads)
    assert_found(cfg, "model.decode_head has 11, model.auxiliary_head.0 has 255", "ignore_index")


@pytest.mark.parametrize("form", [dict, list])
def test_ignore_index_of_metric(tmp_path, form):
    write_maps(tmp_path, [make_labels(0, 1, 2, 11)] * 2, split="val")
    metric = dict(type="IoUMetric", iou_metrics=["mIoU"])
    for found, number in ((255, 1), (11, 0)):
        evaluator = metric | (dict(ignore_index=11) if found == 11 else {})
        cfg = make_seg_config(
            tmp_path, "val", head=HEAD | dict(ignore_index=11), evaluator=evaluator if form is dict else [evaluator]
        )
        messages = find_messages(cfg)
        assert len(messages) == number, messages
        assert all("val_evaluator ignores 255" in message for message in messages)


@pytest.mark.parametrize(
    "step",
    [
        dict(type="RandomRotate", prob=1, degree=10, seg_pad_val=255),
        dict(type="Pad", size=(64, 64)),
        dict(type="Pad", size=(64, 64), pad_val=dict(img=0, seg=255)),
        dict(type="RandomApply", transforms=[dict(type="RandomRotate", prob=1, degree=10)]),
        dict(type="RandomChoice", transforms=[[dict(type="RandomRotate", prob=1, degree=10)], []]),
    ],
)
def test_padding_of_transforms(tmp_path, step):
    write_maps(tmp_path, [make_labels(0, 1, 2)] * 2)
    head = HEAD | dict(ignore_index=11)
    cfg = make_seg_config(tmp_path, head=head, steps=[*LOAD, step])
    assert_found(cfg, "is 255, but ignore_index of the heads is 11", "training fails")
    assert find_messages(make_seg_config(tmp_path, steps=[*LOAD, step])) == {}


def test_padding_of_wrapper_and_preprocessor(tmp_path):
    write_maps(tmp_path, [make_labels(0, 1, 2)] * 2)
    mosaic = [dict(type="RandomMosaic", prob=1, seg_pad_val=0)]
    dataset = dict(type="MultiImageMixDataset", dataset=make_dataset(tmp_path), pipeline=mosaic)
    cfg = make_config("mmseg", dict(decode_head=HEAD), train=dataset)
    assert_found(cfg, "seg_pad_val of RandomMosaic is 0", "are trained as class 0", is_error=False)
    cfg = make_seg_config(tmp_path, head=HEAD | dict(ignore_index=11))
    cfg.data_preprocessor = dict(type="SegDataPreProcessor", size=(64, 64))
    assert_found(cfg, "data_preprocessor.seg_pad_val is 255", "Set data_preprocessor.seg_pad_val to 11")
    cfg.model.data_preprocessor = dict(seg_pad_val=11)
    assert find_messages(cfg) == {}


BINARY = dict(
    type="FCNHead", num_classes=2, out_channels=1, loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True)
)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("place", ["decode", "auxiliary", "auxiliary list", "cascade"])
def test_one_class(tmp_path, sigmoid, place):
    write_maps(tmp_path, [make_labels(0, 1)] * 2)
    head = HEAD | dict(num_classes=1, loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=sigmoid))
    good = HEAD | dict(num_classes=2)
    model = {
        "decode": dict(decode_head=head),
        "auxiliary": dict(decode_head=good, auxiliary_head=head),
        "auxiliary list": dict(decode_head=good, auxiliary_head=[good, head]),
        "cascade": dict(decode_head=[good, head]),
    }[place]
    cfg = make_binary_config(tmp_path, model=model)
    words = ("num_classes is 1", "num_classes=2 with", "num_classes=2, out_channels=1", "use_sigmoid=True")
    messages = [text for text in find_messages(cfg) if all(word in text for word in words)]
    assert len(messages) == 1


def test_one_channel(tmp_path):
    write_maps(tmp_path, [make_labels(0, 1)] * 2)
    names = ("background", "road")
    assert find_messages(make_seg_config(tmp_path, names=names, head=BINARY)) == {}
    for loss in (dict(type="CrossEntropyLoss"), [dict(type="mmseg.CrossEntropyLoss", use_sigmoid=False)], None):
        head = BINARY | dict(loss_decode=loss)
        if loss is None:
            del head["loss_decode"]
        cfg = make_seg_config(tmp_path, names=names, head=head)
        assert_found(cfg, "model.decode_head.out_channels is 1", "softmax", "use_sigmoid=True")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_reduce_zero_label_of_pipeline(tmp_path, split):
    write_maps(tmp_path, [make_labels(0, 1, 2)] * 2, split=split)
    steps = [LOAD[0], LOAD[1] | dict(reduce_zero_label=True)]
    cfg = make_seg_config(tmp_path, split, steps=steps)
    assert_found(cfg, f"LoadAnnotations of the {split} pipeline has reduce_zero_label=True", "has False")


def test_tta_pipeline(tmp_path):
    write_maps(tmp_path, [make_labels(0, 1, 2)] * 2, split="test")
    cfg = make_seg_config(tmp_path, "test")
    annotations = dict(type="LoadAnnotations", reduce_zero_label=True)
    cfg.tta_pipeline = [LOAD[0], dict(type="TestTimeAug", transforms=[[annotations], [dict(type="PackSegInputs")]])]
    assert_found(cfg, "tta_pipeline has reduce_zero_label=True", "test data set has False", is_error=False)
    cfg.tta_pipeline[1].transforms[0][0].reduce_zero_label = False
    assert find_messages(cfg) == {}
    cfg.tta_pipeline[1].transforms[0][0].type = "LoadAnotations"
    assert_found(cfg, "tta_pipeline does not build", "LoadAnotations", is_error=False)


def test_class_lists_of_splits(tmp_path):
    for split in ("train", "val"):
        write_maps(tmp_path, [make_labels(0, 1, 2)] * 2, split=split)
    datasets = dict(train=make_dataset(tmp_path), val=make_dataset(tmp_path, "val", names=("sky", "tree", "road")))
    cfg = make_config("mmseg", dict(decode_head=HEAD), **datasets)
    assert_found(cfg, "train and val", "sky, road, tree", "sky, tree, road", "label 1 is road in one and tree in")


def test_more_classes_in_head(tmp_path):
    write_maps(tmp_path, [make_labels(0, 1, 2)] * 2)
    cfg = make_seg_config(tmp_path, head=HEAD | dict(num_classes=150))
    assert_found(cfg, "model.decode_head.num_classes is 150", "3 classes", is_error=False)
