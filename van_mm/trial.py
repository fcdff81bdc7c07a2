"""A trial of any config's model, of the four codebases: random weights, an image of noise, no data."""

import copy
import logging
from collections.abc import Sequence

import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from van_mm.demo import dicts

# Sizes of images in pipelines, by transform; a backbone can be made for that one size.
SIZES = {
    "CenterCrop": "crop_size", "EfficientNetCenterCrop": "crop_size", "RandomResizedCrop": "scale", "Resize": "scale",
    "ResizeEdge": "scale",
}  # fmt: skip
OTHERWISE = dict(mmpretrain=224, mmdet=384, mmseg=256, mmpose=256)  # 384: detectors' seventh level is three pixels wide


def image_size(cfg: Config) -> tuple[int, int]:
    """Height and width of an image to try a config with: the config's own where images are made to have one size, as
    for classifiers and poses, otherwise ``OTHERWISE``."""
    codec = cfg.get("codec", {})
    if isinstance(codec, dict) and codec.get("input_size"):
        width, height = codec.input_size
        return height, width
    classifies = cfg.default_scope == "mmpretrain"
    found = OTHERWISE[cfg.default_scope]
    for node in dicts((cfg.get("test_dataloader") or cfg.get("train_dataloader") or {}).get("dataset")):
        if node.get("type") in SIZES and (classifies or node.get("keep_ratio") is False):
            found = node[SIZES[node.type]]
    width, height = both(found)
    return height, width


def both(size: int | Sequence[int] | None) -> Sequence[int] | None:
    """Two numbers for one."""
    return (size, size) if isinstance(size, int) else size


def drop_weights(node: ConfigDict) -> None:
    """Take from a config what would initialise or download weights."""
    for one in dicts(node):
        for key in ("init_cfg", "pretrained"):
            one.pop(key, None)


def trial_model(cfg: Config) -> nn.Module:
    """The config's model with random weights, in eval mode.

    Raises:
        UserError: If it does not build.
    """
    from van_mm.launch import build_random

    model = build_random(Config(copy.deepcopy(cfg._cfg_dict)))
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # a line for each parameter
    try:
        model.init_weights()  # where boxes are parameters, those of a constructor have no size
    finally:
        logging.disable(before)
    return model


@torch.no_grad()
def trial(
    model: nn.Module, cfg: Config, size: tuple[int, int] | None = None, batch: int = 1, boxes: int | None = None
) -> object:
    """Run a config's model on images of noise, auxiliary heads too, from the backbone to what the heads make of it.

    Args:
        model (nn.Module): From :func:`trial_model`.
        cfg (Config): Its config.
        size (tuple[int, int], optional): Height and width of the images. Defaults to :func:`image_size`'s.
        batch (int): How many there are. Defaults to 1.
        boxes (int, optional): How many of the proposals a second stage gets. Defaults to all.

    Returns:
        object: What the heads give, in the form of their codebase.
    """
    part = next(module for module in model.modules() if hasattr(module, "backbone"))
    size = size or image_size(cfg)
    images = torch.rand(batch, 3, *size)
    if cfg.default_scope == "mmdet":
        from mmdet.structures import TrackDataSample

        samples = det_samples(images)
        try:  # not predict: heads have trouble with what random weights find, SSD's with anything
            if hasattr(part, "track_head"):  # of a video
                return part.predict(images[None], [TrackDataSample(video_data_samples=samples)])
            if not hasattr(part, "roi_head"):
                return part(images, samples)
            maps, given = part.extract_feat(images), [sample.gt_instances for sample in samples]
            found = part.rpn_head.predict(maps, samples) if part.with_rpn else given
            return part.roi_head(maps, [one[:boxes] for one in found], samples)
        except (NotImplementedError, TypeError, AttributeError):  # of heads that only predict
            return part.predict(images, samples)
    if cfg.default_scope == "mmseg":
        if part.with_auxiliary_head:
            heads, maps = part.auxiliary_head, part.extract_feat(images)
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                head(maps)
        return part.encode_decode(images, [dict(img_shape=size, ori_shape=size, pad_shape=size)] * batch)
    if cfg.default_scope == "mmpose":
        return part.head(part.extract_feat(images))
    if hasattr(part, "predict") and part.with_head:
        return part.predict(images)
    maps = part.backbone(images)  # self-supervised learning, or a network without a head
    if type(part.neck).__name__ == "SwAVNeck":  # which takes maps of crops of each size
        maps = [maps]
    return part.neck(maps) if part.with_neck else maps


def det_samples(images: Tensor) -> list:
    """What mmdet's models want to know of images (N, 3, H, W) beside their pixels, with a box on each."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    meta["border"] = (0, height, 0, width)  # CenterNet's
    box = InstanceData(bboxes=images.new_tensor([[0, 0, 64, 64]]), labels=images.new_tensor([0], dtype=torch.long))
    return [DetDataSample(metainfo=meta, gt_instances=box) for _ in images]
