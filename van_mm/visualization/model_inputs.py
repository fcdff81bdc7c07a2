"""Draw the preprocessed images of a batch with their ground truth, as the model receives them."""

import copy

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from van_mm.visualization.drawing import build_visualizer, draw_sample, get_class_name, predicts_saliency

MIN_DRAWN_SIDE = 400  # pixels of the shorter side; lines and text are legible at this size. Our choice


def draw_batch(batch: dict, preprocessor: nn.Module, meta: dict, cfg: Config) -> list[np.ndarray]:
    """Undo the normalization of a batch and draw the ground truth on its images.

    Args:
        batch (dict): ``inputs`` (N, 3, H, W) and ``data_samples``, from the preprocessor.
        preprocessor (nn.Module): The data preprocessor that normalized the images.
        meta (dict): The data set's meta information.
        cfg (Config): The experiment.

    Returns:
        list[np.ndarray]: Images (H', W', 3, uint8, RGB). Small images are enlarged by an integer factor, except those
        of classifiers, which have no drawings on them.
    """
    mean, std = (getattr(preprocessor, name, default) for name, default in (("mean", 0.0), ("std", 1.0)))
    pixels = (batch["inputs"].float() * std + mean).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    is_rgb = converts_to_rgb(preprocessor)
    images = [to_rgb(image, is_rgb) for image in pixels]
    if cfg.default_scope == "mmpretrain":
        return images
    visualizer = build_visualizer(cfg, meta)
    saliency = predicts_saliency(cfg)
    factor = max(1, round(MIN_DRAWN_SIDE / min(pixels.shape[1:3])))
    drawn = []
    for image, sample in zip(images, batch["data_samples"], strict=True):
        for key in ("gt_panoptic_seg", "gt_sem_seg"):  # crop the image's padding if the segmentation map has none
            if key in sample:
                height, width = sample.get(key).shape[-2:]
                image = image[:height, :width]
        image = np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1))
        enlarged = scale_ground_truth(sample, factor)
        drawn.append(draw_sample(visualizer, image, enlarged, truth=True, saliency=saliency))
    return drawn


def to_rgb(image: np.ndarray, is_rgb: bool = False) -> np.ndarray:
    """Return an image that can be drawn on.

    Args:
        image (np.ndarray): (H, W, C, uint8). C is 1 for gray, 3 for colors, and more if there are further channels.
        is_rgb (bool): Whether the order of colors is RGB already, instead of BGR. Defaults to False.

    Returns:
        np.ndarray: (H, W, 3, uint8, RGB). Gray is repeated, and channels after the third are left out.
    """
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[2] < 3:
        return np.ascontiguousarray(image[..., :1].repeat(3, 2))
    return np.ascontiguousarray(image[..., :3] if is_rgb else image[..., 2::-1])


def get_input_image(inputs: torch.Tensor, model: nn.Module) -> np.ndarray:
    """Return a pipeline's image (C, H, W, uint8) before it is normalized as (H, W, 3, uint8, RGB)."""
    preprocessor = getattr(model, "module", model).data_preprocessor
    return to_rgb(inputs.byte().permute(1, 2, 0).cpu().numpy(), not converts_to_rgb(preprocessor))


def converts_to_rgb(preprocessor: nn.Module) -> bool:
    """Return whether a data preprocessor turns images from BGR, as OpenCV reads them, into RGB."""
    names = ("to_rgb", "channel_conversion", "_channel_conversion")  # of mmpretrain, of mmseg, of mmdet and mmpose
    return any(getattr(preprocessor, name, False) for name in names)


def scale_ground_truth(sample: BaseDataElement, factor: int) -> BaseDataElement:
    """Return a copy of a data sample with its ground truth enlarged by an integer factor."""
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
    if "transformed_keypoints" in instances:  # mmpose does not transform the boxes
        instances.transformed_keypoints = instances.transformed_keypoints * factor
        instances.pop("bboxes")
        return sample
    boxes = instances.bboxes
    instances.bboxes = (boxes.tensor if hasattr(boxes, "tensor") else boxes) * factor
    if "masks" in instances:
        instances.masks = instances.masks.resize([factor * side for side in instances.masks.masks.shape[1:]])
    return sample


def format_caption(sample: BaseDataElement, meta: dict) -> str:
    """Return the name of the file and, for classification, the labels. Mixed images have two labels with shares."""
    file = str(sample.metainfo.get("img_path", "")).rpartition("/")[2][-28:]
    classes = meta.get("classes")

    def name(label: int) -> str:
        return get_class_name(classes, label)[:20]

    if "gt_score" in sample:
        shares, labels = sample.gt_score.topk(min(2, len(sample.gt_score)))
        pairs = [(share, label) for share, label in zip(shares.tolist(), labels.tolist(), strict=True) if share > 0.05]
        return file + "\n" + ", ".join(f"{name(label)} {share:.2f}" for share, label in pairs)
    if "gt_label" in sample:
        return file + "\n" + ", ".join(name(int(label)) for label in torch.atleast_1d(sample.gt_label))
    return file
