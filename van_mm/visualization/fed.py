"""What a model is fed, made visible again."""

import copy

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from .draw import class_name, draw, visualizer_of

LEGIBLE = 400  # pixels of a picture's shorter side that the visualizers' lines and letters are made for


def fed(batch: dict, preprocessor: nn.Module, meta: dict, cfg: Config) -> list[np.ndarray]:
    """The pictures of a preprocessed batch, un-normalised, with their ground truth drawn on them.

    Args:
        batch (dict): ``inputs`` (N, 3, H, W) and ``data_samples``, as the preprocessor returns them.
        preprocessor (nn.Module): Which normalised them.
        meta (dict): The data set's meta information.
        cfg (Config): Of the experiment.

    Returns:
        list[np.ndarray]: (H, W, 3, uint8, RGB).
    """
    mean, std = (getattr(preprocessor, name, default) for name, default in (("mean", 0.0), ("std", 1.0)))
    pixels = (batch["inputs"].float() * std + mean).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    swapped = getattr(preprocessor, "_channel_conversion", None) or getattr(preprocessor, "channel_conversion", None)
    swapped = swapped or getattr(preprocessor, "to_rgb", False)
    images = [np.ascontiguousarray(picture if swapped else picture[..., ::-1]) for picture in pixels]
    if cfg.default_scope == "mmpretrain":
        return images
    visualizer = visualizer_of(cfg, meta)
    factor = max(1, round(LEGIBLE / min(pixels.shape[1:3])))  # small pictures are enlarged, for the visualizer's text
    drawn = []
    for image, sample in zip(images, batch["data_samples"], strict=True):
        for key in ("gt_panoptic_seg", "gt_sem_seg"):  # without the padding that the truth has not
            if key in sample:
                height, width = sample.get(key).shape[-2:]
                image = image[:height, :width]
        image = np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1))
        drawn.append(draw(visualizer, image, in_fed_pixels(sample, factor), truth=True))
    return drawn


def in_fed_pixels(sample: BaseDataElement, factor: int) -> BaseDataElement:
    """A copy of a data sample whose ground truth is of the picture that is fed, ``factor`` times enlarged."""
    sample = copy.deepcopy(sample)
    for key in ("gt_sem_seg", "gt_panoptic_seg"):
        field = sample.get(key)
        if field is not None:
            for name, values in field.items():
                values = torch.as_tensor(values).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
                sample.set_field(PixelData(**{name: values}), key, dtype=PixelData)
    instances = sample.get("gt_instances")
    if instances is None:
        return sample
    if "transformed_keypoints" in instances:  # mmpose keeps boxes in the file's pixels
        instances.transformed_keypoints = instances.transformed_keypoints * factor
        instances.pop("bboxes")
        return sample
    boxes = instances.bboxes
    instances.bboxes = (boxes.tensor if hasattr(boxes, "tensor") else boxes) * factor
    if "masks" in instances:
        instances.masks = instances.masks.resize([factor * side for side in instances.masks.masks.shape[1:]])
    return sample


def caption(sample: BaseDataElement, meta: dict) -> str:
    """The file, and for classification the labels with their shares (of a mixed picture, more than one)."""
    file = str(sample.metainfo.get("img_path", "")).rpartition("/")[2][-28:]
    classes = meta.get("classes")

    def name(label: int) -> str:
        return class_name(classes, label)[:20]

    if "gt_score" in sample:
        shares, labels = sample.gt_score.topk(min(2, len(sample.gt_score)))
        kept = [(share, label) for share, label in zip(shares.tolist(), labels.tolist(), strict=True) if share > 0.05]
        return file + "\n" + ", ".join(f"{name(label)} {share:.2f}" for share, label in kept)
    if "gt_label" in sample:
        return file + "\n" + ", ".join(name(int(label)) for label in torch.atleast_1d(sample.gt_label))
    return file
