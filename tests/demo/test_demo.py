"""Demo data have the formats of the real datasets, and demo configs change only the documented settings."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from van_mm.apis.configs import CONFIG_DIR, find_config
from van_mm.demo.classification import IMAGENET
from van_mm.demo.coco import COCO_THINGS, load_coco_categories
from van_mm.demo.demo_config import apply_demo
from van_mm.demo.demo_data import make_demo_data
from van_mm.demo.segmentation import ADE_IDS


def test_config_that_does_not_train():
    with pytest.raises(ValueError, match="has no train_dataloader. --demo needs a config that trains"):
        apply_demo(Config(dict(default_scope="mmpretrain", train_dataloader=None, test_dataloader=dict())))


def test_class_names_match_the_datasets():
    from mmdet.datasets import CocoPanopticDataset
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
    from mmseg.datasets import ADE20KDataset

    classes = ADE20KDataset.METAINFO["classes"]
    assert {name: classes.index(name) + 1 for name in ADE_IDS} == ADE_IDS
    categories = load_coco_categories()
    assert [c["name"] for c in categories] == list(CocoPanopticDataset.METAINFO["classes"])
    assert set(COCO_THINGS) <= {c["name"] for c in categories if c["isthing"]}
    labels = [label for label, _, _ in IMAGENET.values()]
    assert sorted(IMAGENET) == list(IMAGENET) and sorted(labels) == labels  # labels are the ranks of the sorted synsets
    assert IMAGENET_CATEGORIES[417].startswith("balloon") and IMAGENET_CATEGORIES[963].startswith("pizza")


def test_same_seed_gives_same_data(tmp_path):
    for name in ("a", "b"):
        make_demo_data("ADE20KDataset", tmp_path / name, train=2, val=1)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    train = cv2.imread(str(tmp_path / "a/images/training/ADE_train_00000001.jpg"))
    val = cv2.imread(str(tmp_path / "a/images/validation/ADE_val_00000001.jpg"))
    assert not np.array_equal(train, val)


def test_outdated_folder_is_rewritten_and_other_folders_are_refused(tmp_path):
    make_demo_data("ADE20KDataset", tmp_path / "ade", train=1, val=1)
    image = tmp_path / "ade/images/training/ADE_train_00000001.jpg"
    time = image.stat().st_mtime_ns
    make_demo_data("ADE20KDataset", tmp_path / "ade", train=1, val=1)
    assert image.stat().st_mtime_ns == time
    (tmp_path / "ade/.demo.json").write_text('{"version": 0}')
    make_demo_data("ADE20KDataset", tmp_path / "ade", train=1, val=1)
    assert image.stat().st_mtime_ns != time
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.jpg").write_text("precious")
    with pytest.raises(ValueError, match="not demo data"):
        make_demo_data("ADE20KDataset", tmp_path / "mine")
    assert (tmp_path / "mine/photo.jpg").read_text() == "precious"
    with pytest.raises(ValueError, match="no demo data for data set 'Cityscapes'"):
        make_demo_data("Cityscapes", tmp_path / "city")


def test_coco_panoptic_agrees_with_instances(demo_root):
    coco = demo_root / "coco"
    panoptic = json.loads((coco / "annotations/panoptic_train2017.json").read_text())
    instances = json.loads((coco / "annotations/instances_train2017.json").read_text())
    things = {c["id"] for c in panoptic["categories"] if c["isthing"]}
    areas = {}
    for annotation in panoptic["annotations"]:
        png = cv2.imread(str(coco / "annotations/panoptic_train2017" / annotation["file_name"]))
        ids = png.astype(int) @ [65536, 256, 1]
        assert set(np.unique(ids)) == {segment["id"] for segment in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            assert (ids == segment["id"]).sum() == segment["area"]
            if segment["category_id"] in things:
                areas.setdefault(annotation["image_id"], []).append(segment["area"])
    by_image = {}
    for instance in instances["annotations"]:
        by_image.setdefault(instance["image_id"], []).append(instance["area"])
    assert areas == by_image


def test_keypoints_lie_on_the_person(demo_root):
    people = json.loads((demo_root / "coco/annotations/person_keypoints_train2017.json").read_text())
    assert people["categories"][0]["keypoints"][5] == "left_shoulder"
    for person in people["annotations"]:
        points = np.array(person["keypoints"]).reshape(17, 3)
        seen = points[points[:, 2] > 0]
        x, y, w, h = person["bbox"]
        assert len(seen) == person["num_keypoints"] >= 12
        assert np.all((seen[:, :2] >= (x - 3, y - 3)) & (seen[:, :2] <= (x + w + 3, y + h + 3)))


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("*/*.py")), ids=lambda p: p.stem)
def test_demo_keeps_the_recipe(path):
    before, after = Config.fromfile(path), Config.fromfile(path)
    apply_demo(after, "elsewhere", iters=30)
    assert after.train_cfg.max_iters == 30 and after.train_cfg.val_interval == 30
    assert after.model.backbone.get("init_cfg") is None
    assert "'data/" not in str(after.train_dataloader) + str(after.test_evaluator) + str(after.val_dataloader)
    for scheduler in after.param_scheduler:
        assert not scheduler.by_epoch and scheduler.get("end", 30) <= 30
    assert after.model.backbone.arch == before.model.backbone.arch
    pipelines = [[t["type"] for t in cfg.train_dataloader.dataset.pipeline] for cfg in (before, after)]
    assert pipelines[0] == pipelines[1]
    optimizers = [dict(cfg.optim_wrapper.optimizer) for cfg in (before, after)]
    assert all(optimizer.pop("lr") > 0 for optimizer in optimizers)  # the only setting that follows the batch size
    assert optimizers[0] == optimizers[1] and optimizers[0]["type"]


def test_demo_drops_published_weights_and_keeps_files(tmp_path):
    file = tmp_path / "mine.pth"
    file.touch()
    for checkpoint, kept in ((str(file), True), ("van_mm://b2_in1k", False), ("work_dirs/none/epoch_1.pth", False)):
        cfg = Config.fromfile(find_config("seg/upernet_van_b2"))
        cfg.model.backbone.init_cfg.checkpoint = checkpoint
        apply_demo(cfg)
        assert (cfg.model.backbone.init_cfg is not None) == kept


def test_demo_scales_settings_with_the_image_size():
    cfg = Config.fromfile(find_config("det/mask2former_van_b2_50e_coco_panoptic"))
    apply_demo(cfg)
    assert cfg.model.train_cfg.num_points == 12544 / 8**2
    cfg = Config.fromfile(find_config("det/mask_rcnn_van_b2_1x_coco"))
    apply_demo(cfg)
    assert (cfg.model.train_cfg.rpn.sampler.num, cfg.model.train_cfg.rcnn.sampler.num) == (256, 32)


def test_demo_of_upstream_configs():
    """The demo scales every size (mosaic, padding, head, codec, random resizing) and the learning rate of SGD."""
    cfg = Config.fromfile(find_config("mmdet::yolox/yolox_s_8xb8-300e_coco"))
    apply_demo(cfg)
    text = str([cfg.train_dataloader, cfg.val_dataloader, cfg.model])
    assert "640" not in text and "320" not in text and cfg.test_dataloader.dataset.pipeline[1].scale == (160, 160)
    assert cfg.model.data_preprocessor.batch_augments[0].random_size_range == (128, 192)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(30 * 3e-4)
    cfg = Config.fromfile(find_config("mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192"))
    apply_demo(cfg)
    head = cfg.model.head
    assert head.input_size == head.decoder.input_size == (96, 128) and head.in_featuremap_size == (3, 4)


def test_demo_refuses_invalid_arguments():
    cfg = Config.fromfile(find_config("seg/upernet_van_b2"))
    with pytest.raises(ValueError, match="at least 1"):
        apply_demo(cfg, iters=0)
    with pytest.raises(ValueError, match="default_scope"):
        apply_demo(Config(dict(default_scope="mmtrack")))
