"""--data makes any config train and test on a folder of images and labels, and sets everything that follows."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

import van_mm
from tests.datasets.folders.data_folders import (
    box_to_polygon,
    write_class_folders,
    write_coco,
    write_image,
    write_map,
    write_voc,
    write_yolo,
)
from van_mm.apis.configs import CONFIG_DIR
from van_mm.apis.own_data import use_data
from van_mm.apis.run_config import get_run_config, load_experiment
from van_mm.apis.run_options import RunOptions
from van_mm.datasets.checks.run import find_run_problems
from van_mm.utils.config_walk import get_type_name, iter_dicts
from van_mm.utils.errors import UserError, WeightsError


def write_fields(folder: Path, values=(0, 1, 2, 11), splits=("train", "val"), number: int = 9) -> Path:
    for split in splits:
        for i in range(number):
            write_image(folder / "images" / split / f"{i}.jpg", seed=i)
            write_map(folder / "labels" / split / f"{i}.png", values)
    return folder


def write_people(folder: Path, names=("head", "left_foot", "right_foot")) -> Path:
    for split in ("train", "val"):
        path = write_coco(folder, split, f"images/{split}", keypoints=[20, 20, 2] * len(names))
        content = json.loads(path.read_text())
        content["categories"] = [dict(id=1, name="cell", keypoints=list(names), skeleton=[[1, 2], [1, 3]])]
        content["annotations"] = [item for item in content["annotations"] if item["category_id"] == 1]
        path.write_text(json.dumps(content))
    return folder


def write_panoptic(folder: Path) -> Path:
    """Write images whose left half is a thing and whose right half is stuff."""
    for split in ("train", "val"):
        content = dict(
            images=[],
            annotations=[],
            categories=[dict(id=1, name="sea", isthing=0), dict(id=2, name="boat", isthing=1)],
        )
        for i in range(8):
            write_image(folder / split / f"{i}.jpg", seed=i)
            write_map(folder / f"annotations/panoptic_{split}/{i}.png", [[1, 0, 0], [2, 0, 0]])
            content["images"].append(dict(id=i, file_name=f"{i}.jpg", width=64, height=48))
            segments = [
                dict(id=1, category_id=2, area=32 * 48, bbox=[0, 0, 32, 48], iscrowd=0),
                dict(id=2, category_id=1, area=32 * 48, bbox=[32, 0, 32, 48], iscrowd=0),
            ]
            content["annotations"].append(dict(image_id=i, file_name=f"{i}.png", segments_info=segments))
        (folder / f"annotations/panoptic_{split}.json").write_text(json.dumps(content))
    return folder


def write_masks(folder: Path) -> Path:
    for split in ("train", "val"):
        write_coco(folder, f"annotations/instances_{split}", split, number=8, segmentation=box_to_polygon)
    return folder


WRITERS = {
    "cls": lambda folder: write_class_folders(folder, ("train", "val"), number=9),
    "det": write_masks,
    "panoptic": write_panoptic,
    "seg": write_fields,
    "pose": write_people,
}


def load(name: str, folder: Path, **options) -> Config:
    cfg = load_experiment(name)
    changes = use_data(cfg, folder, pretrained=False, **options)
    assert all(isinstance(line, str) for line in changes)
    return cfg


def build(cfg: Config) -> dict:
    """Build the data sets and run the checks that a training runs. Return the data sets."""
    init_default_scope(cfg.default_scope)
    datasets = {split: DATASETS.build(cfg[f"{split}_dataloader"].dataset) for split in ("train", "val")}
    problems = [problem.message for problem in find_run_problems(cfg, datasets) if problem.is_error]
    assert problems == []
    return datasets


@pytest.mark.parametrize(
    ("config", "data"),
    [
        ("cls/van_b0_in1k", "cls"),
        ("cls/van_b4_in22k", "cls"),  # only trains, without an evaluator
        ("cls/van_b4_in22k_cub", "cls"),
        ("cls/van_b4_in22k_ft_in1k_384", "cls"),
        ("det/retinanet_van_b0_1x_coco", "det"),
        ("det/atss_van_b2_ms_3x_coco", "det"),
        ("det/mask_rcnn_van_b0_1x_coco", "det"),
        ("det/cascade_mask_rcnn_van_b2_ms_3x_coco", "det"),
        ("det/sparse_rcnn_van_b2_ms_3x_coco", "det"),
        ("det/mask2former_van_b2_50e_coco_panoptic", "panoptic"),
        ("det/retinanet_van_b0_1x_coco", "pose"),  # boxes of people
        ("seg/upernet_van_b0", "seg"),
        ("seg/semantic_fpn_van_b0", "seg"),
        ("pose/simplebaseline_van_b2_coco_256x192", "pose"),
        ("mmdet::yolox/yolox_s_8xb8-300e_coco", "det"),
        ("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco", "det"),
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco", "det"),
        ("mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024", "seg"),
        ("mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512", "seg"),
        ("mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192", "pose"),
    ],
)
def test_configs_fit_the_data(config, data, folder):
    WRITERS[data](folder)
    cfg = load(config, folder, **(dict(ignore_index=11) if data == "seg" else {}))
    datasets = build(cfg)
    number = dict(cls=2, det=2, panoptic=2, seg=3, pose=3)[data]
    if data != "pose":
        assert len(datasets["train"].metainfo["classes"]) == number
        found = [node["num_classes"] for node in iter_dicts(cfg.model) if isinstance(node.get("num_classes"), int)]
        things = dict(panoptic=1).get(data, number)
        assert set(found) <= {number, things}, found
    assert cfg.train_cfg.max_epochs >= 10 and cfg.train_dataloader.num_workers in (0, 2, 4)
    assert cfg.val_evaluator and cfg.test_evaluator and None not in (cfg.val_cfg, cfg.test_cfg)
    loaders = [cfg[f"{split}_{part}"] for split in ("val", "test") for part in ("dataloader", "evaluator")]
    assert "data/" not in str([cfg.train_dataloader, *loaders]).replace(str(folder), "").replace("data/.cache", "")
    Config.fromstring(cfg.pretty_text, ".py")  # the dumped config loads


def test_panoptic_counts_and_weights(folder):
    cfg = load("det/mask2former_van_b2_50e_coco_panoptic", write_panoptic(folder))
    head, fusion = cfg.model.panoptic_head, cfg.model.panoptic_fusion_head
    assert (
        (head.num_things_classes, head.num_stuff_classes)
        == (1, 1)
        == (fusion.num_things_classes, fusion.num_stuff_classes)
    )
    assert head.loss_cls.class_weight == [1.0, 1.0, 0.1]
    dataset = build(cfg)["train"]
    assert dataset.metainfo["classes"] == ("boat", "sea")  # things first, as the head counts
    sample = dataset[0]["data_samples"]
    assert sample.gt_sem_seg.sem_seg.unique().tolist() in ([0, 1], [0, 1, 255])


def test_ignored_label_is_ignored_everywhere(folder):
    """The ignored value, and what pads images, are the value that heads and metrics ignore; zero is a class."""
    cfg = load("seg/upernet_van_b0", write_fields(folder), ignore_index=11)
    for part in (cfg.train_dataloader, cfg.val_dataloader, cfg.tta_pipeline, cfg.model, cfg.val_evaluator):
        for node in iter_dicts(part):
            assert not node.get("reduce_zero_label") and node.get("ignore_index", 255) in (255, -100)
            assert node.get("seg_pad_val", 255) == 255
    datasets = build(cfg)
    for split, dataset in datasets.items():
        values = dataset[0]["data_samples"].gt_sem_seg.data.unique().tolist()
        assert set(values) <= {0, 1, 2, 255} and (split == "train" or values == [0, 1, 2, 255])


def test_num_classes_of_a_classifier_and_its_metric(folder):
    cfg = load("cls/van_b0_in1k", write_class_folders(folder), epochs=200)
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 2
    assert cfg.val_evaluator.topk == (1,) and cfg.model.train_cfg.augments
    cfg = load("cls/van_b0_in1k", write_class_folders(folder, classes="abcdef"))
    assert cfg.val_evaluator.topk == (1, 5)


def test_ema_and_cosine_end_with_the_run(folder):
    """The traps of a short run: an average over 300 epochs, and a cosine that ends at epoch 300."""
    cfg = load("cls/van_b0_in1k", write_class_folders(folder, number=40), epochs=3)
    warmup, cosine = cfg.param_scheduler
    assert cosine.end == cfg.train_cfg.max_epochs == 3 and warmup.end == pytest.approx(0.3)
    steps = 3 * (64 // cfg.train_dataloader.batch_size)
    ema = next(hook for hook in cfg.custom_hooks if get_type_name(hook) == "EMAHook")
    assert (1 - ema.momentum) ** steps < 0.01
    datasets = build(cfg)
    messages = [problem.message for problem in find_run_problems(cfg, datasets)]
    assert not any("EMAHook" in message or "param_scheduler" in message for message in messages)


def test_strong_regularization_needs_a_long_run(folder):
    write_class_folders(folder)
    short, medium, long = (load("cls/van_b2_in1k", folder, epochs=epochs) for epochs in (3, 30, 300))
    names = [{get_type_name(step) for step in cfg.train_dataloader.dataset.pipeline} for cfg in (short, medium, long)]
    assert ["RandomFlip" in kept for kept in names] == [False, True, True]
    assert ["RandAugment" in kept for kept in names] == [False, False, True]
    assert short.model.backbone.drop_path_rate == 0 and long.model.backbone.drop_path_rate > 0


def test_keypoints_of_the_file(folder):
    cfg = load("pose/simplebaseline_van_b2_coco_256x192", write_people(folder))
    dataset = build(cfg)["train"]
    meta = dataset.metainfo
    assert meta["flip_indices"] == [0, 2, 1] and meta["skeleton_links"] == [(0, 1), (0, 2)]
    assert cfg.model.head.out_channels == 3 and dataset[0]["inputs"].shape == (3, 256, 192)
    assert "bbox_file" not in cfg.val_dataloader.dataset


def test_image_size(folder):
    write_masks(folder)
    for size, scale in ((None, (64, 64)), (128, (128, 128))):
        cfg = load("det/retinanet_van_b0_1x_coco", folder, image_size=size)
        width, height = cfg.val_dataloader.dataset.pipeline[1].scale
        factor = min(width / 64, height / 48)
        assert round(64 * factor) == scale[0]
    cfg = load("seg/upernet_van_b0", write_fields(folder), image_size=96, ignore_index=11)
    assert cfg.model.data_preprocessor.size == (96, 96) == cfg.train_dataloader.dataset.pipeline[3].crop_size


@pytest.mark.parametrize("known", [True, False])
def test_pretrained_weights(known, folder, monkeypatch, capsys):
    """Weights that can't be had are replaced by random ones, with a learning rate for them."""

    def read(source):
        if not known:
            raise WeightsError(f"{source} can't be downloaded")
        return {}

    monkeypatch.setattr("van_mm.apis.own_data.read_checkpoint", read)
    for name, data in (("det/retinanet_van_b0_1x_coco", write_voc), ("cls/van_b0_in1k", write_class_folders)):
        data(folder / name)
        cfg = load_experiment(name)
        changes = "\n".join(use_data(cfg, folder / name))
        if known:
            assert cfg.model.backbone.init_cfg.checkpoint == "van_mm://b0_in1k"
            assert "weights: van_mm://b0_in1k" in changes and cfg.optim_wrapper.optimizer.lr < 3e-4
        else:
            assert not cfg.model.backbone.get("init_cfg") and cfg.optim_wrapper.optimizer.lr >= 3e-4
            assert "weights: random, because van_mm://b0_in1k can't be downloaded" in changes


@pytest.mark.parametrize(
    ("config", "writer", "words"),
    [
        ("seg/upernet_van_b0", write_voc, ("has boxes (Pascal VOC XML)", "needs label maps", "det/retinanet_van_b0")),
        ("det/mask_rcnn_van_b0_1x_coco", write_yolo, ("needs boxes with masks", "det/retinanet_van_b0_1x_coco")),
        ("det/retinanet_van_b0_1x_coco", write_fields, ("needs boxes", "seg/upernet_van_b0")),
        ("pose/simplebaseline_van_b2_coco_256x192", write_class_folders, ("needs keypoints", "cls/van_b0_in1k")),
        ("seg/edn_van_b1_duts", write_fields, ("saliency has 2 classes", "seg/semantic_fpn_van_b0")),
    ],
)
def test_config_of_another_task(config, writer, words, folder):
    writer(folder)
    with pytest.raises(UserError) as error:
        load(config, folder)
    assert all(word in str(error.value) for word in words)


def test_saliency_takes_any_two_values(folder):
    cfg = load("seg/edn_van_b1_duts", write_fields(folder, values=(0, 255)))
    dataset = build(cfg)["val"]
    assert dataset[0]["data_samples"].gt_sem_seg.data.unique().tolist() == [0, 1]
    assert van_mm.use_data is use_data


@pytest.mark.parametrize("options", [dict(epochs=0), dict(image_size=-1), dict(batch_size=0), dict(iters=0)])
def test_wrong_numbers(options, folder):
    with pytest.raises(UserError, match="must be at least 1"):
        load("cls/van_b0_in1k", write_class_folders(folder), **options)


TEMPLATES = {
    "class_folders": ("data/animals", write_class_folders),
    "voc": ("data/cells", write_voc),
    "coco": ("data/leaves", write_masks),
    "label_maps": ("data/fields", write_fields),
    "keypoints": ("data/horses", write_people),
}


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("_templates_/*.py")), ids=lambda path: path.stem)
def test_templates(path, folder):
    assert len(path.read_text().splitlines()) < 10
    place, write = TEMPLATES[path.stem]
    write(Path(place))
    cfg = get_run_config(str(path), options=RunOptions(pretrained=False, epochs=3))
    assert cfg.train_cfg.max_epochs == 3 and "run_options" not in cfg
    assert len(build(cfg)["train"]) > 3
    assert not any(name.startswith("_templates_") for name in van_mm.list_configs())


def test_unknown_run_option(folder):
    config = Path("mine.py")
    config.write_text(f"_base_ = {str(CONFIG_DIR / 'cls/van_b0_in1k.py')!r}\nrun_options = dict(folder='data')\n")
    with pytest.raises(UserError, match="run_options has no folder. It has batch, data"):
        get_run_config(str(config))
