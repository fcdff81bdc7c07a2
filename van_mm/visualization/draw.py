"""Predictions and ground truth drawn on a picture, by the visualizer of the codebase they come from."""

import tempfile
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer


def visualizer_of(cfg: Config, meta: dict) -> Visualizer:
    """The config's visualizer, which writes nothing by itself, with the classes and colours of ``meta``."""
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=uuid4().hex, vis_backends=None))
    visualizer.alpha = 0.6
    if cfg.default_scope == "mmpose":
        visualizer.set_dataset_meta(meta)
    else:
        visualizer.dataset_meta = meta
    return visualizer


def class_name(classes: Sequence[str] | None, label: int) -> str:
    """A class's name, of several the first; its number where the data set has no names."""
    return str(classes[label]).split(",")[0] if classes else str(label)


def draw(
    visualizer: Visualizer,
    image: np.ndarray,
    sample: BaseDataElement,
    truth: bool = False,
    score_thr: float = 0.3,
    labels: bool = True,
) -> np.ndarray:
    """Draw a data sample of one of the codebases.

    Args:
        visualizer (Visualizer): The codebase's own, with its ``dataset_meta``.
        image (np.ndarray): (H, W, 3, uint8, RGB).
        sample (BaseDataElement): In the pixels of ``image``.
        truth (bool): The ground truth instead of the prediction. Defaults to False.
        score_thr (float): Detections below this score are not drawn. Defaults to 0.3.
        labels (bool): Write names into the regions of semantic segmentation. Defaults to True.

    Returns:
        np.ndarray: (H, W, 3, uint8, RGB). Saliency is the map itself, in grey.
    """
    if is_saliency(sample):
        shades = (sample.gt_sem_seg if truth else sample.seg_logits).data[0].float()
        return cv2.cvtColor((255 * shades).byte().cpu().numpy(), cv2.COLOR_GRAY2RGB)
    panoptic = sample.get("gt_panoptic_seg" if truth else "pred_panoptic_seg")
    if panoptic is not None and (panoptic.sem_seg % 1000 >= len(visualizer.dataset_meta["classes"])).all():
        return image.copy()  # nothing was found, for which mmdet's visualizer has no picture
    codebase = type(visualizer).__module__.partition(".")[0]
    options = {
        "mmdet": dict(pred_score_thr=score_thr),
        "mmpose": dict(kpt_thr=0.1, draw_bbox=True),
        "mmseg": dict(with_labels=labels),
    }.get(codebase, {})
    add = visualizer.visualize_cls if codebase == "mmpretrain" else partial(visualizer.add_datasample, "")
    with tempfile.NamedTemporaryFile(suffix=".png") as file:  # without a file they write to the run's backends
        add(image, sample, draw_gt=truth, draw_pred=not truth, out_file=file.name, **options)
        return cv2.cvtColor(cv2.imread(file.name), cv2.COLOR_BGR2RGB)


def is_saliency(sample: BaseDataElement) -> bool:
    """Whether the prediction is one map of what stands out."""
    return "seg_logits" in sample and len(sample.seg_logits.data) == 1


def has_truth(sample: BaseDataElement) -> bool:
    """Whether there is ground truth to draw."""
    return any(
        getattr(sample, key, None) is not None and (key != "gt_instances" or len(sample.gt_instances))
        for key in ("gt_label", "gt_sem_seg", "gt_instances", "gt_panoptic_seg")
    )
