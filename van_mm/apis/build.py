"""Build a config's model, with or without weights, and run it once."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from van_mm.checkpoints.io import read_checkpoint
from van_mm.checkpoints.loading import match_complete_state_dict
from van_mm.utils.config_walk import drop_pretrained, iter_dicts, to_pair
from van_mm.utils.errors import wrap_build_errors
from van_mm.visualization.class_names import get_trained_meta


def build_model(cfg: Config, source: str, checkpoint: dict | None = None) -> nn.Module:
    """Build a config's model with the weights of a checkpoint.

    Args:
        cfg (Config): Config of an experiment, from :func:`van_mm.get_config`. Pretrained weights are removed from its
            ``model``, because the checkpoint contains all weights.
        source (str): Checkpoint of this model: a file or a URL.
        checkpoint (dict, optional): What was read from it already.

    Returns:
        nn.Module: The model on the CPU, in eval mode. Its ``dataset_meta`` is the meta information of the data set that
        it was trained on, as in upstream's inferencers, or empty.

    Raises:
        UserError: If the config does not build, or if the checkpoint belongs to another model.
        WeightsError: If the checkpoint cannot be downloaded or read.

    Example:
        >>> import torch
        >>> from van_mm import get_config
        >>> from van_mm.apis.build import build_model, build_random_model
        >>> cfg = get_config("cls/van_b0_in1k")
        >>> torch.save(build_random_model(cfg).state_dict(), "van_b0.pth")  # instead of a trained checkpoint
        >>> model = build_model(cfg, "van_b0.pth")
        >>> model(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    checkpoint = read_checkpoint(source) if checkpoint is None else checkpoint
    model = build_random_model(cfg)
    model.load_state_dict(match_complete_state_dict(model, checkpoint, source))
    model.dataset_meta = get_trained_meta(checkpoint)
    return model


def build_random_model(cfg: Config) -> nn.Module:
    """Build a config's model with the random weights of its constructors. Nothing is downloaded.

    Args:
        cfg (Config): Config of an experiment. Pretrained weights are removed from its ``model``, and its
            ``data_preprocessor`` is copied into it.

    Returns:
        nn.Module: The model on the CPU, in eval mode. BatchNorm takes the place of SyncBatchNorm.

    Raises:
        UserError: If the config does not build.
    """
    from mmengine.model import revert_sync_batchnorm

    init_default_scope(cfg.default_scope)
    if "data_preprocessor" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)  # as mmengine's Runner does
    drop_pretrained(cfg.model)
    with wrap_build_errors():
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.eval()
    return model


# Transforms that set the size of images, and the argument that holds it.
IMAGE_SIZE_KEYS = {
    "CenterCrop": "crop_size", "EfficientNetCenterCrop": "crop_size", "RandomResizedCrop": "scale", "Resize": "scale",
    "ResizeEdge": "scale",
}  # fmt: skip
# Our choice: the usual size of classifiers, and small sizes that run fast. At 384, a detector's seventh level, with its
# stride of 128, is 3 pixels wide.
DEFAULT_IMAGE_SIZES = dict(mmpretrain=224, mmdet=384, mmseg=256, mmpose=256)


def get_image_size(cfg: Config) -> tuple[int, int]:
    """Return the size of images to try a config's model with.

    Args:
        cfg (Config): Config of an experiment.

    Returns:
        tuple[int, int]: Height and width. They come from the config if it gives all images the same size, as
        classifiers and pose estimators do, and from :data:`DEFAULT_IMAGE_SIZES` otherwise.
    """
    codec = cfg.get("codec", {})
    if isinstance(codec, dict) and codec.get("input_size"):
        width, height = codec.input_size
        return height, width
    is_classifier = cfg.default_scope == "mmpretrain"
    size = DEFAULT_IMAGE_SIZES[cfg.default_scope]
    for node in iter_dicts((cfg.get("test_dataloader") or cfg.get("train_dataloader") or {}).get("dataset")):
        if node.get("type") in IMAGE_SIZE_KEYS and (is_classifier or node.get("keep_ratio") is False):
            size = node[IMAGE_SIZE_KEYS[node.type]]
    width, height = to_pair(size)
    return height, width


def get_test_image_size(cfg: Config) -> tuple[int, int]:
    """Return the size of images that a config tests with, for a landscape image if the size depends on the image.

    Args:
        cfg (Config): Config of an experiment.

    Returns:
        tuple[int, int]: Height and width. For detection they are multiples of 32, as its images are padded to; for
        segmentation the size of the crops that it trains with.

    Example:
        >>> from van_mm import get_config
        >>> get_test_image_size(get_config("det/retinanet_van_b0_1x_coco"))
        (800, 1312)
        >>> get_test_image_size(get_config("seg/upernet_van_b2"))
        (512, 512)
    """
    if cfg.default_scope in ("mmpretrain", "mmpose"):
        return get_image_size(cfg)
    preprocessor = cfg.get("data_preprocessor") or cfg.model.get("data_preprocessor") or {}
    if cfg.default_scope == "mmseg":
        crops = [node.crop_size for node in iter_dicts(cfg.get("train_dataloader")) if node.get("crop_size")]
        sizes = [size for size in (preprocessor.get("size"), *crops) if size]
        if sizes:
            height, width = to_pair(sizes[0])
            return height, width
    for node in iter_dicts((cfg.get("test_dataloader") or {}).get("dataset")):
        if isinstance(scale := node.get(IMAGE_SIZE_KEYS.get(node.get("type"))), (int, list, tuple)):
            width, height = sorted(to_pair(scale), reverse=True) if node.get("keep_ratio") else to_pair(scale)
            return max(32, height // 32 * 32), max(32, width // 32 * 32)
    return get_image_size(cfg)


def build_trial_model(cfg: Config) -> nn.Module:
    """Build a config's model for a trial run, and leave the config unchanged.

    Args:
        cfg (Config): Config of an experiment.

    Returns:
        nn.Module: The model with random weights from ``init_weights``, on the CPU, in eval mode.

    Raises:
        UserError: If the config does not build.
    """
    model = build_random_model(Config(copy.deepcopy(cfg._cfg_dict)))
    with hide_upstream_messages():  # init_weights logs a line for each parameter
        model.init_weights()  # some detectors learn boxes, which have no area before this
    return model


@contextmanager
def hide_upstream_messages() -> Iterator[None]:
    """Hide the warnings of the codebases about functions of their own, and what is logged at the level INFO."""
    level_before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level_before)


@torch.no_grad()
def run_dummy_forward(
    model: nn.Module, cfg: Config, size: tuple[int, int] | None = None, batch: int = 1, boxes: int | None = None
) -> object:
    """Run a model on random images, from the backbone to the outputs of all heads, auxiliary heads included.

    Args:
        model (nn.Module): Model from :func:`build_trial_model`.
        cfg (Config): Config of the model.
        size (tuple[int, int], optional): Height and width of the images. Defaults to that of :func:`get_image_size`.
        batch (int): Number of images. Defaults to 1.
        boxes (int, optional): Number of proposals for each image in the second stage of a detector. Defaults to all.

    Returns:
        object: Outputs of the heads in the format of their codebase. For segmentation these are logits
        (N, classes, H, W).
    """
    network = next(module for module in model.modules() if hasattr(module, "backbone"))
    size = size or get_image_size(cfg)
    images = torch.rand(batch, 3, *size)
    if cfg.default_scope == "mmdet":
        from mmdet.structures import TrackDataSample

        samples = make_det_samples(images)
        # predict is the last resort, because post-processing often fails on the outputs of random weights. SSD's always
        # does.
        try:
            if hasattr(network, "track_head"):  # tracks objects in a video
                return network.predict(images[None], [TrackDataSample(video_data_samples=samples)])
            if not hasattr(network, "roi_head"):
                return network(images, samples)
            maps, ground_truth = network.extract_feat(images), [sample.gt_instances for sample in samples]
            proposals = network.rpn_head.predict(maps, samples) if network.with_rpn else ground_truth
            return network.roi_head(maps, [instances[:boxes] for instances in proposals], samples)
        except (NotImplementedError, TypeError, AttributeError):  # some detectors implement predict only
            return network.predict(images, samples)
    if cfg.default_scope == "mmseg":
        if network.with_auxiliary_head:
            heads, maps = network.auxiliary_head, network.extract_feat(images)
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                head(maps)
        return network.encode_decode(images, [dict(img_shape=size, ori_shape=size, pad_shape=size)] * batch)
    if cfg.default_scope == "mmpose":
        return network.head(network.extract_feat(images))
    if hasattr(network, "predict") and network.with_head:
        return network.predict(images)
    maps = network.backbone(images)  # self-supervised learning, or a network without a head
    if type(network.neck).__name__ == "SwAVNeck":  # expects a list with the maps of each crop size
        maps = [maps]
    return network.neck(maps) if network.with_neck else maps


def get_input_channels(model: nn.Module) -> int:
    """Return the number of channels that the first convolution of a model's backbone reads."""
    module = getattr(model, "backbone", model)
    return next((layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)), 3)


def make_det_samples(images: Tensor) -> list:
    """Make the data samples that mmdet's models expect with images.

    Args:
        images (Tensor): Images (N, 3, H, W).

    Returns:
        list[DetDataSample]: N samples with the metadata of the images and one box of 64 x 64 pixels each.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    meta["border"] = (0, height, 0, width)  # CenterNet reads it
    box = InstanceData(bboxes=images.new_tensor([[0, 0, 64, 64]]), labels=images.new_tensor([0], dtype=torch.long))
    return [DetDataSample(metainfo=meta, gt_instances=box) for _ in images]
