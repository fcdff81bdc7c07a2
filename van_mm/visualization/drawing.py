"""Draw predictions and ground truth on images with the visualizers of the four codebases."""

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

from van_mm.utils.config_walk import get_type_name, iter_dicts
from van_mm.visualization.fonts import use_visualizer_fonts

UNNAMED_COLOR = [128, 128, 128]  # of classes that have no name; our choice


def build_visualizer(cfg: Config, meta: dict) -> Visualizer:
    """Build the config's visualizer without backends, so that it writes no files.

    Args:
        cfg (Config): An experiment.
        meta (dict): The data set's meta information, with the names and colors of the classes.
    """
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=uuid4().hex, vis_backends=None))
    visualizer.alpha = 0.6
    meta = complete_classes(meta, cfg)
    if cfg.default_scope == "mmpose":
        visualizer.set_dataset_meta(meta)
    else:
        visualizer.dataset_meta = meta
    return visualizer


def complete_classes(meta: dict, cfg: Config) -> dict:
    """Return the meta information of a data set with a name and a color for every class of the model's heads.

    Args:
        meta (dict): The data set's meta information. Classes beyond its own are named by their index.
        cfg (Config): An experiment.
    """
    classes, palette = meta.get("classes"), meta.get("palette")
    number = max((n for node in iter_dicts(cfg.model) if isinstance(n := node.get("num_classes"), int)), default=0)
    if not isinstance(classes, (list, tuple)) or len(classes) >= number:
        return meta
    meta = dict(meta, classes=(*classes, *(f"class {label}" for label in range(len(classes), number))))
    if isinstance(palette, (list, tuple)):
        meta["palette"] = [*palette, *[UNNAMED_COLOR] * (number - len(palette))]
    return meta


def get_class_name(classes: Sequence[str] | None, label: int) -> str:
    """Return the first of a class's names, or its index as text if ``classes`` has no such class."""
    return str(classes[label]).split(",")[0] if classes and label < len(classes) else str(label)


def draw_sample(
    visualizer: Visualizer,
    image: np.ndarray,
    sample: BaseDataElement,
    truth: bool = False,
    score_thr: float = 0.3,
    labels: bool = True,
    saliency: bool = False,
) -> np.ndarray:
    """Draw the prediction or the ground truth of a data sample on its image.

    Args:
        visualizer (Visualizer): Visualizer of the sample's codebase, from :func:`build_visualizer`.
        image (np.ndarray): Image (H, W, 3, uint8, RGB).
        sample (BaseDataElement): Data sample of one of the codebases, with coordinates in pixels of ``image``.
        truth (bool): Draw the ground truth instead of the prediction. Defaults to False.
        score_thr (float): Detections below this score are not drawn. Defaults to 0.3.
        labels (bool): Write the names of classes on a semantic segmentation. Defaults to True.
        saliency (bool): Draw a map of saliency, see :func:`predicts_saliency`. Defaults to False.

    Returns:
        np.ndarray: (H, W, 3, uint8, RGB). For saliency, this is the saliency map in gray instead of the image.
    """
    if saliency:
        values = (sample.gt_sem_seg if truth else sample.seg_logits).data[0].float()
        return cv2.cvtColor((255 * values).byte().cpu().numpy(), cv2.COLOR_GRAY2RGB)
    panoptic = sample.get("gt_panoptic_seg" if truth else "pred_panoptic_seg")
    if panoptic is not None and (panoptic.sem_seg % 1000 >= len(visualizer.dataset_meta["classes"])).all():
        return image.copy()  # mmdet's visualizer fails on a panoptic segmentation without segments
    codebase = type(visualizer).__module__.partition(".")[0]
    classes = (visualizer.dataset_meta or {}).get("classes") or ()
    names = list(map(str, classes)) if isinstance(classes, (list, tuple)) else []
    # mmseg's visualizer writes names with OpenCV, which has ASCII only.
    writes_names = codebase == "mmseg" and labels and not "".join(names).isascii()
    options = {
        "mmdet": dict(pred_score_thr=score_thr),
        "mmpose": dict(kpt_thr=0.1, draw_bbox=True),
        "mmseg": dict(with_labels=labels and not writes_names),
    }.get(codebase, {})
    draw = visualizer.visualize_cls if codebase == "mmpretrain" else partial(visualizer.add_datasample, "")
    with use_visualizer_fonts(visualizer, names):
        # Without out_file, visualizers write to their backends.
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            draw(image, sample, draw_gt=truth, draw_pred=not truth, out_file=file.name, **options)
            drawing = cv2.cvtColor(cv2.imread(file.name), cv2.COLOR_BGR2RGB)
        if writes_names:
            label_map = (sample.gt_sem_seg if truth else sample.pred_sem_seg).data[0].cpu().numpy()
            drawing = write_names(visualizer, drawing, label_map, names)
    return drawing


def write_names(visualizer: Visualizer, drawing: np.ndarray, label_map: np.ndarray, names: list[str]) -> np.ndarray:
    """Write the name of each class at the point of its area that is farthest from the area's edges.

    Args:
        visualizer (Visualizer): Writes the names.
        drawing (np.ndarray): Drawn segmentation (H, W, 3, uint8, RGB).
        label_map (np.ndarray): Class indices (H, W). Indices without a name are ignored.
        names (list[str]): Names by index.

    Returns:
        np.ndarray: (H, W, 3, uint8, RGB).
    """
    labels = [label for label in np.unique(label_map).tolist() if 0 <= label < len(names)]
    if not labels:
        return drawing
    insides = [
        cv2.distanceTransform(np.pad(label_map == label, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        for label in labels
    ]
    points = np.array([np.unravel_index(inside.argmax(), inside.shape)[::-1] for inside in insides])
    visualizer.set_image(drawing)
    visualizer.draw_texts(
        [names[label] for label in labels],
        points,
        colors="w",
        vertical_alignments="center",
        horizontal_alignments="center",
        bboxes=[dict(facecolor="black", alpha=0.6, pad=1, edgecolor="none")] * len(labels),
    )
    return visualizer.get_image()


def predicts_saliency(cfg: Config) -> bool:
    """Return whether the model of a config predicts saliency, and not the labels 0 and 1 of a binary segmentation."""
    head = cfg.model.get("module", cfg.model).get("decode_head")  # test-time augmentation wraps the model
    if not isinstance(head, dict):
        return False
    is_saliency_set = any(get_type_name(node) == "SaliencyDataset" for node in iter_dicts(cfg.get("test_dataloader")))
    return get_type_name(head) == "EDNHead" or (is_saliency_set and head.get("out_channels") == 1)


def has_ground_truth(sample: BaseDataElement) -> bool:
    """Return whether the sample has ground truth that can be drawn."""
    return any(
        getattr(sample, key, None) is not None and (key != "gt_instances" or len(sample.gt_instances))
        for key in ("gt_label", "gt_sem_seg", "gt_instances", "gt_panoptic_seg")
    )
