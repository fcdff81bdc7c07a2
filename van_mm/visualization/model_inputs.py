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
    drawn = []
    for image, sample in zip(images, batch["data_samples"], strict=True):
        for key in ("gt_panoptic_seg", "gt_sem_seg"):  # crop the image's padding if the segmentation map has none
            if key in sample:
                height, width = sample.get(key).shape[-2:]
                image = image[:height, :width]
        if "transformed_keypoints" in sample.get("gt_instances", ()):  # mmpose does not transform the boxes
            sample = sample.clone()
            sample.gt_instances.pop("bboxes")
        drawn.append(draw_sample(visualizer, *enlarge_small_image(image, sample), truth=True, saliency=saliency))
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


def enlarge_small_image(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, BaseDataElement]:
    """Enlarge an image and its data sample by an integer factor, if lines and text on the image would not be legible.

    Args:
        image (np.ndarray): Image (H, W, C), uint8.
        sample (BaseDataElement): Its ground truth and predictions, in pixels of the image.

    Returns:
        tuple[np.ndarray, BaseDataElement]: Both with a shorter side of about :data:`MIN_DRAWN_SIDE` pixels, or as they
        were if the side is not much shorter.
    """
    factor = max(1, round(MIN_DRAWN_SIDE / min(image.shape[:2])))
    if factor == 1:
        return image, sample
    sample = copy.deepcopy(sample)
    for key in ("gt_sem_seg", "pred_sem_seg", "gt_panoptic_seg", "pred_panoptic_seg", "seg_logits"):
        field = sample.get(key)
        for name, values in field.items() if field is not None else ():
            sample.set_field(PixelData(**{name: repeat_pixels(values, factor)}), key, dtype=PixelData)
    for key in ("gt_instances", "pred_instances"):
        instances = sample.get(key)
        for name in ("bboxes", "keypoints", "transformed_keypoints", "masks") if instances is not None else ():
            if name in instances:
                value, enlarge = instances.pop(name), enlarge_masks if name == "masks" else enlarge_coordinates
                instances[name] = enlarge(value, factor)
    return np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1)), sample


def repeat_pixels(values, factor: int) -> torch.Tensor:
    """Return maps (..., H, W) with every pixel repeated in both directions."""
    return torch.as_tensor(values).repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def enlarge_coordinates(values, factor: int):
    """Return boxes or keypoints, as a tensor or an array, multiplied by a factor."""
    return (values.tensor if hasattr(values, "tensor") else values) * factor


def enlarge_masks(masks, factor: int):
    """Return the masks of instances (n, H, W), or mmdet's masks of ground truth, enlarged by a factor."""
    if hasattr(masks, "height"):
        return masks.resize((factor * masks.height, factor * masks.width))
    return repeat_pixels(masks, factor)


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
