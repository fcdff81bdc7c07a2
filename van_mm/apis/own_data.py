"""Use a folder of one's own data with any config."""

import colorsys
import copy
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size

from van_mm.apis.configs import list_configs
from van_mm.apis.main_metric import find_main_metric
from van_mm.checkpoints.io import MODEL_ZOO, MODEL_ZOO_PREFIX, read_checkpoint
from van_mm.datasets.checks.classes import OTHER_COUNTS, iter_heads, reads_class_names
from van_mm.datasets.checks.keypoints import HEAD_KEYS as KEYPOINT_HEADS
from van_mm.datasets.folders.found import FolderData
from van_mm.datasets.folders.label_maps import IGNORED
from van_mm.datasets.folders.read import describe_folder, read_folder
from van_mm.demo.demo_config import get_demo_settings, use_scratch_lr
from van_mm.engine.distributed.processes import take_turns
from van_mm.utils.codebases import CODEBASES
from van_mm.utils.config_walk import drop_pretrained, find_inner_dataset, get_type_name, iter_dicts, to_pair
from van_mm.utils.errors import UserError, WeightsError
from van_mm.utils.image_sizes import scale_image_sizes
from van_mm.utils.run_length import get_run_length, set_run_length

# Configs of the suite that fit each kind of data, as patterns for list_configs, in the order of the message.
FITTING_CONFIGS = {
    "classes": ["cls/van_b[0-3]_in1k"],
    "boxes": ["det/retinanet_van_*", "det/atss_*", "det/gfl_*", "det/sparse_*"],
    "masks": ["det/mask_rcnn_van_*", "det/cascade_*", "det/retinanet_*"],
    "panoptic": ["det/mask2former_*"],
    "keypoints": ["pose/*_van_*"],
    "label maps": ["seg/semantic_fpn_van_*", "seg/upernet_van_*"],
}
# Lengths of a run by codebase, if neither epochs nor iterations are given: the larger one of ``epochs`` and of the
# epochs that give ``steps`` optimizer steps, because small data sets need more epochs. ``side`` limits the images on a
# machine without a GPU. All values are our choice.
RUN_DEFAULTS = {
    "mmpretrain": dict(epochs=20, steps=600, side=224),
    "mmdet": dict(epochs=12, steps=500, side=320),
    "mmseg": dict(epochs=20, steps=800, side=256),
    "mmpose": dict(epochs=40, steps=500, side=256),
}
LONG_RUN = 100  # epochs from which on a classifier keeps its strong augmentation; our choice
MIN_STEPS = 150  # steps of an epoch for which a classifier's batch on a CPU gets smaller, down to 8; our choice
STRONG_TRANSFORMS = ("RandAugment", "AutoAugment", "RandomErasing")
SHORT_RUN = 10  # epochs from which on a classifier flips its images; our choice
MILD_CROP = (0.7, 1.0)  # share of an image that a crop has in short runs; our choice
MIN_SIDE = 64  # smallest image side that is chosen, because the last stage has a stride of 32; our choice
VALIDATIONS = 5  # largest number of validations in a run; our choice
MAX_WORKERS = 8  # processes that load data for each process that trains; our choice
KEYPOINT_SIGMA = 0.05  # of keypoints that COCO doesn't have, in relation to the size of the object; our choice
ADAPTIVE_OPTIMIZERS = ("Adam", "AdamW", "NAdam", "RAdam", "Lamb", "LAMB")
# Keys of a VAN backbone that its ImageNet weights allow.
PRETRAINED_KEYS = {
    "type", "arch", "out_indices", "drop_path_rate", "init_cfg", "norm_cfg", "frozen_stages", "norm_eval", "with_cp",
    "_scope_",
}  # fmt: skip


def use_data(
    cfg: Config,
    folder: str | Path,
    *,
    ignore_index: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    iters: int | None = None,
    seed: int = 0,
    pretrained: bool | None = None,
) -> list[str]:
    """Train and test a config on a folder of one's own data, in place.

    The layout is recognised: class folders, CSV of file and label, COCO JSON, Pascal VOC XML, YOLO txt, images with
    label maps. A table of what was found is printed. Everything that follows from the data is set: data sets,
    evaluators, classes and colors, numbers of classes and keypoints, ignored labels, batch size, data workers, image
    size, learning rate and length of the run. Nothing is written into the folder; changed annotations are kept below
    ``data/.cache``.

    Args:
        cfg (Config): An experiment of the task that the data are labelled for.
        folder (str | Path): The folder.
        ignore_index (int, optional): Value of label maps that stands for no class, in addition to 255.
        image_size (int, optional): Longer side of the images in pixels; the crop for semantic segmentation. Defaults to
            the size of the data, at most that of the config, and less on a machine without a GPU.
        batch_size (int, optional): Images in a batch of each process. Defaults to what suits the machine.
        epochs (int, optional): Length of the run. Defaults to what suits the number of images.
        iters (int, optional): Length of the run in iterations, instead of ``epochs``.
        seed (int): Seed of the split, if the data have no validation part. Defaults to 0.
        pretrained (bool, optional): Start from pretrained weights. By default, where they can be had: without a network
            the run starts from random weights, and a line says so. With True, nothing is tried.

    Returns:
        list[str]: The changes, one line each.

    Raises:
        UserError: If the folder has no known layout, if its labels do not fit the config, or a value is not positive.

    Example:
        >>> cfg = van_mm.get_config("seg/upernet_van_b0")
        >>> changes = van_mm.use_data(cfg, "data/fields", ignore_index=11)
    """
    if cfg.get("default_scope") not in CODEBASES:
        raise UserError(f"--data: default_scope is {cfg.get('default_scope')!r}. Use one of {', '.join(CODEBASES)}")
    for name, value in (("image size", image_size), ("batch", batch_size), ("number of epochs", epochs),
                        ("number of iterations", iters)):  # fmt: skip
        if value is not None and value < 1:
            raise UserError(f"the {name} must be at least 1, got {value}. Choose another one")
    wanted = find_wanted_kind(cfg)
    with take_turns():
        data = read_folder(folder, {"masks": "boxes"}.get(wanted, wanted), seed, ignore_index)
    check_kind(data, wanted, cfg)
    print(describe_folder(data), flush=True)
    set_datasets(cfg, data, wanted)
    set_evaluators(cfg, data, wanted)
    changes = [f"data: {data.layout} of {data.folder}, {len(data.classes)} classes"]
    changes += set_class_counts(cfg, data)
    if wanted == "label maps":
        set_ignored_label(cfg)
    if wanted == "keypoints":
        changes += set_keypoint_counts(cfg, len(data.keypoints["names"]))
    changes.append(set_image_size(cfg, data, image_size))
    changes.append(set_loaders(cfg, data, batch_size))
    changes.append(set_weights_and_lr(cfg, pretrained))
    changes += set_length(cfg, data, epochs, iters)
    if wanted == "classes":
        changes += lighten_regularization(cfg)
    for key in ("data_root", "dataset_type"):  # nothing reads these variables any more
        cfg._cfg_dict.pop(key, None)
    return changes


# ---- What the config needs ------------------------------------------------------------------------------------------
def find_wanted_kind(cfg: Config) -> str:
    """Return the kind of labels that a config trains on."""
    if cfg.default_scope != "mmdet":
        return {"mmpretrain": "classes", "mmseg": "label maps", "mmpose": "keypoints"}[cfg.default_scope]
    steps = list(iter_dicts(cfg.train_dataloader.dataset))
    if any("Panoptic" in get_type_name(step) for step in steps):
        return "panoptic"
    return "masks" if any(step.get("with_mask") for step in steps) else "boxes"


def check_kind(data: FolderData, wanted: str, cfg: Config) -> None:
    """Raise if the labels of the data are not those that a config needs. The message lists configs that fit."""
    fits = {"boxes": ("boxes", "masks", "keypoints"), "masks": ("masks",)}.get(wanted, (wanted,))
    if data.kind in fits:
        if wanted == "classes" and not any(True for _ in iter_heads(cfg.model)):
            raise UserError("this config has no classifier. Use one of " + ", ".join(list_fitting_configs("classes")))
        if any("SaliencyMetric" in get_type_name(node) for node in iter_dicts(cfg.get("test_evaluator"))) and (
            len(data.classes) != 2
        ):
            raise UserError(
                f"saliency has 2 classes, but {data.folder} has {len(data.classes)}. Use one of "
                + ", ".join(list_fitting_configs("label maps"))
            )
        return
    names = {"classes": "class labels", "masks": "boxes with masks", "panoptic": "panoptic labels"}
    raise UserError(
        f"{data.folder} has {names.get(data.kind, data.kind)} ({data.layout}), but this config needs "
        f"{names.get(wanted, wanted)}. Configs that fit: {', '.join(list_fitting_configs(data.kind))}"
    )


def list_fitting_configs(kind: str) -> list[str]:
    """Return the first config of each pattern that fits a kind of data."""
    return [next(iter(list_configs(pattern))) for pattern in FITTING_CONFIGS[kind]]


# ---- Data sets and evaluators ---------------------------------------------------------------------------------------
def set_datasets(cfg: Config, data: FolderData, wanted: str) -> None:
    """Replace the data sets by the parts of the data, with the pipelines that they have.

    ``MultiImageMixDataset``, which mosaics need, stays around the data set. Other wrappers repeat or combine what the
    config's own data sets hold, and are dropped.
    """
    train = cfg.train_dataloader
    inner = find_inner_dataset(train.dataset)
    pipeline = inner.get("pipeline")
    new = make_dataset_cfg(cfg, data, "train", pipeline, inner)
    mix = next((node for node in iter_dicts(train.dataset) if get_type_name(node) == "MultiImageMixDataset"), None)
    if mix is not None:
        mix.dataset = new
    train.dataset = mix or new
    val_loader = cfg.get("val_dataloader") or cfg.get("test_dataloader")
    if val_loader:
        old = find_inner_dataset(val_loader.dataset)
        test_pipeline = old.get("pipeline")
    else:  # configs that only train, as those on ImageNet-22K
        old, test_pipeline = inner, cfg.get("test_pipeline") or pipeline
        sampler = ConfigDict(type="DefaultSampler", shuffle=False)
        val_loader = ConfigDict(batch_size=train.batch_size, num_workers=train.num_workers, sampler=sampler)
        for key in ("collate_fn", "pin_memory"):
            if key in train:
                val_loader[key] = train[key]
    for split, source in (("val", "val"), ("test", "test" if "test" in data.splits else "val")):
        loader = copy.deepcopy(val_loader)
        loader.dataset = make_dataset_cfg(cfg, data, source, copy.deepcopy(test_pipeline), old)
        cfg[f"{split}_dataloader"] = loader
        if cfg.get(f"{split}_cfg") is None:
            cfg[f"{split}_cfg"] = ConfigDict(type="ValLoop" if split == "val" else "TestLoop")


def make_dataset_cfg(cfg: Config, data: FolderData, split: str, pipeline: list, old: dict) -> ConfigDict:
    """Return the config of the data set of a split."""
    part = data.splits[split]
    common = dict(data_root=str(data.folder), ann_file=str(part.ann_file), pipeline=pipeline)
    prefix = os.path.relpath(part.image_root, data.folder)
    prefix = "" if prefix == "." else f"{prefix}/"
    palette = data.palette or make_palette(len(data.classes))
    metainfo = dict(classes=tuple(data.classes), palette=palette)
    if cfg.default_scope == "mmpretrain":
        return ConfigDict(
            type="CustomDataset", data_prefix=prefix, metainfo=dict(classes=metainfo["classes"]), **common
        )
    if cfg.default_scope == "mmseg":
        settings = dict(label_map=data.label_map, reduce_zero_label=False, metainfo=metainfo, subset=data.folder.name)
        return ConfigDict(type="van_mm.LabelMapDataset", **settings, **common, test_mode=split != "train")
    common |= dict(data_prefix=dict(img=prefix), test_mode=split != "train")
    if cfg.default_scope == "mmpose":
        metainfo = make_pose_metainfo(data)
        return ConfigDict(type="CocoDataset", data_mode=old.get("data_mode", "topdown"), metainfo=metainfo, **common)
    if split == "train":
        common["filter_cfg"] = dict(filter_empty_gt=True)
    if data.kind == "panoptic":
        common["data_prefix"]["seg"] = os.path.relpath(part.seg_root, data.folder) + "/"
        stuff = tuple(name for name in data.classes if name not in data.things)
        metainfo |= dict(thing_classes=tuple(data.things), stuff_classes=stuff)
        return ConfigDict(type="CocoPanopticDataset", metainfo=metainfo, **common)
    return ConfigDict(type="CocoDataset", metainfo=metainfo, **common)


def make_palette(number: int) -> list[tuple[int, int, int]]:
    """Return distinct colors (R, G, B), whose hues differ by the golden angle. mmdet draws with tuples only."""
    colors = (
        colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.65 + 0.3 * (i % 2), 0.95 - 0.25 * (i // 2 % 2)) for i in range(number)
    )
    return [tuple(round(255 * value) for value in color) for color in colors]


def make_pose_metainfo(data: FolderData) -> dict:
    """Return mmpose's description of the keypoints. Those of COCO have COCO's sigmas and body halves."""
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    coco_file = "configs/_base_/datasets/coco.py"
    names, links, swap = (data.keypoints[key] for key in ("names", "skeleton", "swap"))
    coco = parse_pose_metainfo(dict(from_file=coco_file))
    if names == list(coco["keypoint_id2name"].values()):
        return dict(from_file=coco_file)
    colors = make_palette(len(names))
    return dict(
        dataset_name=data.folder.name,
        classes=tuple(data.classes),
        keypoint_info={
            index: dict(
                name=name,
                id=index,
                color=colors[index],
                type="",
                swap=names[swap[index]] if swap[index] != index else "",
            )
            for index, name in enumerate(names)
        },
        skeleton_info={
            index: dict(link=(names[a], names[b]), id=index, color=colors[a]) for index, (a, b) in enumerate(links)
        },
        joint_weights=[1.0] * len(names),
        sigmas=[KEYPOINT_SIGMA] * len(names),
    )


def set_evaluators(cfg: Config, data: FolderData, wanted: str) -> None:
    """Set the evaluators of validation and test, and the annotation files that they read."""
    for split, source in (("val", "val"), ("test", "test" if "test" in data.splits else "val")):
        old = cfg.get(f"{split}_evaluator") or cfg.get("test_evaluator") or cfg.get("val_evaluator")
        metrics = [
            copy.deepcopy(node) for node in iter_dicts(old) if get_type_name(node).endswith(("Metric", "Accuracy"))
        ]
        file = str(data.splits[source].ann_file)
        kept = next((node for node in metrics if get_type_name(node) in KEPT_METRICS[wanted]), None)
        metric = ConfigDict(kept or DEFAULT_METRICS[wanted])
        metric.pop("dataset_meta", None)
        if wanted == "classes":
            metric.topk = (1, 5) if len(data.classes) > 5 else (1,)
        elif wanted == "label maps":
            metric.pop("ignore_index", None)
        else:
            metric.ann_file = file
            for key in ("format_only", "outfile_prefix", "gt_converter", "pred_converter"):
                metric.pop(key, None)
        if wanted == "boxes":
            metric.metric = "bbox"
        if wanted == "masks" and "segm" not in metric.get("metric", ()):
            metric.metric = ["bbox", "segm"]
        if wanted == "panoptic":
            metric.seg_prefix = str(data.splits[source].seg_root)
        cfg[f"{split}_evaluator"] = metric


KEPT_METRICS = {
    "classes": ("Accuracy",),
    "boxes": ("CocoMetric",),
    "masks": ("CocoMetric",),
    "panoptic": ("CocoPanopticMetric",),
    "keypoints": ("CocoMetric",),
    "label maps": ("IoUMetric", "SaliencyMetric"),
}
DEFAULT_METRICS = {
    "classes": dict(type="Accuracy"),
    "boxes": dict(type="CocoMetric"),
    "masks": dict(type="CocoMetric"),
    "panoptic": dict(type="CocoPanopticMetric"),
    "keypoints": dict(type="CocoMetric"),
    "label maps": dict(type="IoUMetric", iou_metrics=["mIoU"]),
}


# ---- What the model says about classes ------------------------------------------------------------------------------
def set_class_counts(cfg: Config, data: FolderData) -> list[str]:
    """Set the numbers of classes, of things and of stuff wherever they stand, and the weights of classes."""
    if cfg.default_scope == "mmpose" or reads_class_names(cfg):
        return []
    counts = Counter(
        head["num_classes"]
        for path, head in iter_heads(cfg.model)
        if ".rpn_head" not in path and get_type_name(head) not in OTHER_COUNTS
    )
    old = counts.most_common(1)[0][0] if counts else None
    new = len(data.things) if data.kind == "panoptic" else len(data.classes)
    stuff = len(data.classes) - new
    totals = {old}
    for node in iter_dicts(cfg.model):
        if "num_things_classes" in node:
            totals.add(node["num_things_classes"] + node.get("num_stuff_classes", 0))
            node["num_things_classes"], node["num_stuff_classes"] = new, stuff
    places = 0
    for node in iter_dicts([cfg.model, cfg.get("data_preprocessor")]):
        found = node.get("num_classes")
        if (
            isinstance(found, int)
            and get_type_name(node) not in OTHER_COUNTS
            and (cfg.default_scope == "mmpretrain" or found in (old, *totals))
        ):
            node["num_classes"], places = new if found == old else new + stuff, places + 1
            if node.get("out_channels") == found:
                node["out_channels"] = node["num_classes"]
        weights = node.get("class_weight")
        if isinstance(weights, (list, tuple)):
            node["class_weight"] = fit_class_weights(weights, totals, new + stuff)
        if isinstance(node.get("topk"), (int, list, tuple)) and "pre" not in node:
            tops = node["topk"] if not isinstance(node["topk"], int) else [node["topk"]]
            if len(data.classes) < max(tops, default=0) <= 10 and cfg.default_scope == "mmpretrain":
                node["topk"] = tuple(top for top in tops if top <= len(data.classes))
    return [f"num_classes: {old} -> {new + stuff} in {places} places"] if old else []


def fit_class_weights(weights: list[float], totals: set[int | None], new: int) -> list[float] | None:
    """Return weights for the new number of classes: the same one for each, then that of the background. Else None."""
    if len(weights) - 1 in totals and len(set(weights[:-1])) == 1:
        return [weights[0]] * new + [weights[-1]]
    return [weights[0]] * new if len(weights) in totals and len(set(weights)) == 1 else None


def set_ignored_label(cfg: Config) -> None:
    """Ignore 255 in heads, losses and padding, and turn ``reduce_zero_label`` off in every pipeline.

    The data set turns other ignored values into 255. Saliency masks are loaded like other label maps.
    """
    loaders = [cfg.get(f"{split}_dataloader") for split in ("train", "val", "test")]
    for node in iter_dicts([loaders, cfg.get("tta_pipeline"), cfg.model, cfg.get("data_preprocessor")]):
        for key in ("ignore_index", "seg_pad_val"):
            if isinstance(node.get(key), int) and node[key] >= 0:
                node[key] = IGNORED
        if node.get("reduce_zero_label"):
            node["reduce_zero_label"] = False
        if get_type_name(node) == "LoadSaliencyMask":
            node["type"] = "LoadAnnotations"


def set_keypoint_counts(cfg: Config, number: int) -> list[str]:
    """Set the number of keypoints in heads, and drop what selects or converts keypoints of other data sets."""
    changes = []
    for node in iter_dicts(cfg.model):
        key = KEYPOINT_HEADS.get(get_type_name(node))
        if key and isinstance(node.get(key), int) and node[key] != number:
            is_combined = any(one.get("heatmap_type") == "combined" for one in iter_dicts(node.get("decoder")))
            changes.append(f"{get_type_name(node)}.{key}: {node[key]} -> {number}")
            node[key] = 3 * number if is_combined else number
    test_cfg = cfg.model.get("test_cfg") or {}
    test_cfg.pop("output_keypoint_indices", None)
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        for node in iter_dicts(dataset):
            if "pipeline" in node:
                dropped = ("KeypointConverter", *(["RandomHalfBody"] if "from_file" not in dataset.metainfo else []))
                node.pipeline = [step for step in node.pipeline if get_type_name(step) not in dropped]
    return changes


# ---- What suits the data and the machine ----------------------------------------------------------------------------
def set_image_size(cfg: Config, data: FolderData, image_size: int | None) -> str:
    """Scale the image sizes of a config, so that images of the data are resized to ``image_size``."""
    scope, has_gpu = cfg.default_scope, torch.cuda.is_available()
    width, height = (int(side) for side in np.median(data.sizes, axis=0)) if data.sizes else (640, 480)
    current, native = get_image_side(cfg, width, height)
    side = image_size or (
        current if scope == "mmpose" else min(current, native, *([] if has_gpu else [RUN_DEFAULTS[scope]["side"]]))
    )
    if not image_size and scope != "mmpose":
        side = max(MIN_SIDE, math.ceil(side / 32) * 32)
    if side != current:
        scale_image_sizes(cfg, side / current)
    what = {"mmpretrain": "images", "mmseg": "crops"}.get(scope, "images, longer side")
    reason = "" if image_size else " (--image-size changes it)"
    return f"image size: {what} of {side} pixels instead of {current}{reason}; the data have {width} x {height}"


def get_image_side(cfg: Config, width: int, height: int) -> tuple[int, int]:
    """Return the side to which a config resizes images of a size, and that side of the images themselves."""
    steps = list(iter_dicts(find_inner_dataset(cfg.test_dataloader.dataset).get("pipeline")))
    if cfg.default_scope == "mmseg":
        size = (cfg.model.get("data_preprocessor") or {}).get("size")
        crop = next(
            (n["crop_size"] for n in iter_dicts(cfg.train_dataloader) if get_type_name(n) == "RandomCrop"), None
        )
        return max(to_pair(crop or size or 512)), min(width, height)
    if cfg.default_scope == "mmpose":
        codecs = [node["input_size"] for node in iter_dicts(cfg.model) if node.get("input_size")]
        codecs += [node["input_size"] for node in iter_dicts(cfg.train_dataloader) if node.get("input_size")]
        return (max(to_pair(codecs[0])) if codecs else 256), max(width, height)
    if cfg.default_scope == "mmpretrain":
        crops = [node.get("crop_size") for node in steps if get_type_name(node).endswith("CenterCrop")]
        crops += [
            node["scale"] for node in steps if get_type_name(node) in ("Resize", "ResizeEdge") and "scale" in node
        ]
        return (max(to_pair(crops[0])) if crops else 224), min(width, height)
    resize = next((node for node in steps if "Resize" in get_type_name(node) and node.get("scale")), None)
    if resize is None:
        return max(width, height), max(width, height)
    long_side, short_side = max(to_pair(resize.scale)), min(to_pair(resize.scale))
    factor = min(long_side / max(width, height), short_side / min(width, height))
    return max(1, round(factor * max(width, height))), max(width, height)


def set_loaders(cfg: Config, data: FolderData, batch_size: int | None) -> str:
    """Set batch size and data workers."""
    has_gpu, cores = torch.cuda.is_available(), os.cpu_count() or 1
    train, images = cfg.train_dataloader, data.splits["train"].images
    usual = train.batch_size if has_gpu else get_demo_settings(cfg)["batch_size"]
    smallest = 1 if cfg.default_scope == "mmdet" else 2  # BatchNorm on pooled features needs two images
    batch = batch_size or max(smallest, min(usual, images // 8))
    if not batch_size and not has_gpu and cfg.default_scope == "mmpretrain":  # small data need many steps an epoch
        batch = max(min(batch, 8), min(batch, images // MIN_STEPS))
    workers = min(train.num_workers or 2, MAX_WORKERS, cores) if has_gpu else 2 if cores > 4 else 0
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.num_workers, loader.persistent_workers = workers, workers > 0
        if not workers:
            loader.pop("prefetch_factor", None)
    train.batch_size = batch
    for split in ("val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.batch_size = min(loader.batch_size, max(batch, 1 if cfg.default_scope in ("mmdet", "mmseg") else 16))
    if not train.get("batch_sampler"):  # a last batch of one image is more than BatchNorm can stand
        train.drop_last = images >= batch * get_world_size()
    return f"batch size: {batch}, {workers} data workers"


def set_weights_and_lr(cfg: Config, pretrained: bool | None) -> str:
    """Choose pretrained or random weights, and the learning rate for them and for the batch size."""
    backbone = cfg.model.get("backbone") or {}
    weights = f"{backbone.get('arch')}_in1k"
    if (
        get_type_name(backbone) == "VAN"
        and not backbone.get("init_cfg")
        and weights in MODEL_ZOO
        and set(backbone) <= PRETRAINED_KEYS
        and not cfg.get("load_from")
    ):
        backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=MODEL_ZOO_PREFIX + weights)
    sources = [
        node["init_cfg"]["checkpoint"]
        for node in iter_dicts(cfg.model)
        if isinstance(node.get("init_cfg"), dict) and node["init_cfg"].get("type") == "Pretrained"
    ]
    problem = "they are switched off" if pretrained is False else None
    for source in sources if pretrained is None else ():
        if "://" not in source or source.startswith((MODEL_ZOO_PREFIX, "http://", "https://")):
            with take_turns():
                try:  # inside, because the other processes wait for the first one
                    read_checkpoint(source)
                except WeightsError as error:
                    problem = str(error).partition(" To train without")[0]
    batch = cfg.train_dataloader.batch_size * get_world_size()
    optimizer = cfg.optim_wrapper.optimizer
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    if problem or not sources and not cfg.get("load_from"):
        drop_pretrained(cfg.model)
        use_scratch_lr(cfg)
        line = f"weights: random, because {problem or 'none are published for this model'}"
    else:
        if base:  # adaptive optimizers need less than a linear change
            share = batch / base
            optimizer.lr = float(
                f"{optimizer.lr * (share**0.5 if optimizer.type in ADAPTIVE_OPTIMIZERS else share):.3g}"
            )
        line = f"weights: {', '.join(sources) or cfg.load_from}"
    cfg.auto_scale_lr = ConfigDict(enable=False, base_batch_size=batch)  # the learning rate belongs to this batch size
    return f"{line}\n  learning rate: {optimizer.lr:g}"


def set_length(cfg: Config, data: FolderData, epochs: int | None, iters: int | None) -> list[str]:
    """Set the length of the run, and how often it is logged, validated and saved."""
    images, loader = data.splits["train"].images, cfg.train_dataloader
    if find_inner_dataset(loader.dataset).get("data_mode") == "topdown":  # a sample is a person
        images = max(1, sum(data.splits["train"].counts.values()))
    batch = loader.batch_size * get_world_size()
    steps = max(1, images // batch if loader.get("drop_last") else math.ceil(images / batch))
    defaults = RUN_DEFAULTS[cfg.default_scope]
    if not iters:
        epochs = epochs or max(defaults["epochs"], math.ceil(defaults["steps"] / steps))
    changes = set_run_length(cfg, iters or epochs, by_epoch=not iters, steps_per_epoch=steps)
    length, by_epoch = get_run_length(cfg)
    every = max(1, length // VALIDATIONS)
    cfg.train_cfg.val_interval = cfg.default_hooks.checkpoint.interval = every
    cfg.train_cfg.pop("dynamic_intervals", None)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    cfg.default_hooks.checkpoint.update(save_best=find_main_metric(cfg), rule="greater")
    cfg.default_hooks.logger.interval = max(1, min(50, (steps if by_epoch else length) // 2))
    changes[0] = (
        f"length: {length} {'epochs' if by_epoch else 'iterations'}"
        + (f" of {steps} steps" if by_epoch else "")
        + f"; validation and checkpoint every {every}"
    )
    return changes


def lighten_regularization(cfg: Config) -> list[str]:
    """Drop the regularization of a classifier that only pays off in long runs, if the run is short.

    Mixup, CutMix, RandAugment, RandomErasing and stochastic depth keep a model from overfitting in hundreds of epochs.
    In a few they keep it from learning, and crops of 8 % of an image often miss the object. In very short runs, flips
    teach more about mirrored characters and signs than about the images.
    """
    length, by_epoch = get_run_length(cfg)
    if by_epoch and length >= LONG_RUN:
        return []
    dropped = [get_type_name(one) for one in (cfg.model.get("train_cfg") or {}).get("augments") or ()]
    if dropped:
        cfg.model.train_cfg = None  # an empty list of augments can't be drawn from
    dataset = find_inner_dataset(cfg.train_dataloader.dataset)
    unwanted = (*STRONG_TRANSFORMS, *(["RandomFlip"] if by_epoch and length < SHORT_RUN else []))
    kept = [step for step in dataset.pipeline if get_type_name(step) not in unwanted]
    dropped += [get_type_name(step) for step in dataset.pipeline if get_type_name(step) in unwanted]
    dataset.pipeline = kept
    for step in kept:
        if get_type_name(step) == "RandomResizedCrop":
            step.setdefault("crop_ratio_range", MILD_CROP)
    if cfg.model.backbone.get("drop_path_rate"):
        cfg.model.backbone.drop_path_rate = 0.0
        dropped.append("stochastic depth")
    if not dropped:
        return []
    return [f"regularization: no {', '.join(dropped)} in a run of {length} {'epochs' if by_epoch else 'iterations'}"]
