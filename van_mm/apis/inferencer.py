"""Predict on images with the model of any config."""

import contextlib
import copy
from collections.abc import Sequence
from itertools import groupby

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from van_mm.apis.build import get_input_channels
from van_mm.models.utils.autocast import autocast_backbone
from van_mm.utils.config_walk import get_type_name, iter_dicts
from van_mm.utils.errors import UserError
from van_mm.utils.image_files import fit_channels, read_image
from van_mm.visualization.class_names import use_trained_names
from van_mm.visualization.drawing import (
    build_visualizer,
    complete_classes,
    draw_sample,
    get_class_name,
    predicts_saliency,
)
from van_mm.visualization.figures import overlay_heatmap
from van_mm.visualization.model_inputs import to_rgb
from van_mm.visualization.panels import draw_beside, draw_legend, draw_score_bars


def get_dataset_meta(cfg: Config, model: nn.Module | None = None) -> dict:
    """Return the metadata of a config's test data set. The data set's files are not needed.

    Args:
        cfg (Config): Config of an experiment.
        model (nn.Module, optional): Trained model, from :func:`van_mm.apis.build.build_model`. If its checkpoint has
            other names of classes or keypoints, the checkpoint's metadata takes precedence, with a warning.

    Returns:
        dict: ``metainfo`` of the data set, such as the names of its classes and keypoints, and their colors.

    Raises:
        UserError: If the config has no test data set.
    """
    init_default_scope(cfg.default_scope)
    meta = DATASETS.build(dict(copy.deepcopy(get_test_dataset_cfg(cfg)), pipeline=[], lazy_init=True)).metainfo
    return use_trained_names(meta, getattr(model, "dataset_meta", None) or {})


def build_test_pipeline(cfg: Config) -> Compose:
    """Build a config's test pipeline for images in memory, without the transforms that load files.

    Args:
        cfg (Config): Config of an experiment.

    Returns:
        Compose: A pipeline whose input is a dict from :func:`make_loaded_results`.

    Raises:
        UserError: If the config has no test data set.
    """
    return Compose([node for node in get_test_dataset_cfg(cfg).pipeline if "Load" not in get_type_name(node)])


def get_test_dataset_cfg(cfg: Config) -> ConfigDict:
    """Return the config of the test data set, or of the first one if there are several.

    Args:
        cfg (Config): Config of an experiment.

    Returns:
        ConfigDict: The innermost data set with a ``pipeline``.

    Raises:
        UserError: If the config has no test data loader.
    """
    if not cfg.test_dataloader:
        raise UserError(
            f"{cfg.filename} has no test_dataloader, whose pipeline prepares the images. Use a config that can test"
        )
    return next(node for node in iter_dicts(cfg.test_dataloader.dataset) if "pipeline" in node)


def make_loaded_results(image: np.ndarray, number: int = 0) -> dict:
    """Make the dict that a pipeline's loading transforms would return for an image.

    Args:
        image (np.ndarray): Image (H, W, 3), uint8, BGR, or with as many channels as the model reads.
        number (int): ID of the image. Defaults to 0.

    Returns:
        dict: Input of the pipeline's other transforms.
    """
    size = image.shape[:2]
    return dict(img=image, img_path="", img_id=number, img_shape=size, ori_shape=size)


class Inferencer:
    """An image predictor for the model of any experiment in the four codebases.

    Calling it returns one data sample for each image, in the format of the model's codebase and in pixels of the
    original image. What the sample contains depends on the task:

    - classification: ``pred_score``, scores (classes,), and ``pred_label``, the index of the best class (1,);
    - detection: ``pred_instances`` with ``bboxes`` (n, 4) as x1, y1, x2, y2, ``scores`` (n,), ``labels`` (n,), and
      ``masks`` (n, H, W) if the model predicts masks;
    - panoptic segmentation: ``pred_panoptic_seg.sem_seg``, class + 1000 * instance (1, H, W);
    - semantic segmentation: ``pred_sem_seg.data``, class indices (1, H, W);
    - saliency: ``seg_logits.data``, saliency from 0 to 1 (1, H, W);
    - pose estimation: ``pred_instances`` with ``bboxes`` (n, 4), ``keypoints`` (n, K, 2) as x, y, and
      ``keypoint_scores`` (n, K), for n people.

    :meth:`record`, :meth:`labels` and :meth:`draw` turn a sample into JSON, a label map and an image.

    Args:
        cfg (Config): Config of the experiment. It must have a test data loader, whose pipeline prepares the images.
        model (nn.Module): Model of the config with its weights, in eval mode.
        amp (bool): Run the backbone in float16 on a GPU, and in bfloat16 on the CPU. Defaults to False.
        score_thr (float): Minimum score of the detections in records and drawings. Defaults to 0.3.
        topk (int): Number of classes in the records of classification. Defaults to 5.

    Example:
        >>> import numpy as np
        >>> from van_mm import get_config
        >>> from van_mm.apis.build import build_random_model
        >>> from van_mm.apis.inferencer import Inferencer
        >>> cfg = get_config("seg/semantic_fpn_van_b0")
        >>> inferencer = Inferencer(cfg, build_random_model(cfg))  # build_model(cfg, checkpoint) for real predictions
        >>> image = np.zeros((300, 400, 3), np.uint8)  # BGR, as cv2.imread returns it
        >>> (sample,) = inferencer([image])
        >>> sample.pred_sem_seg.data.shape
        torch.Size([1, 300, 400])
        >>> inferencer.labels(sample).shape
        (300, 400)
        >>> sorted(inferencer.record(sample)["areas"][0])
        ['class', 'index', 'share']
    """

    def __init__(self, cfg: Config, model: nn.Module, amp: bool = False, score_thr: float = 0.3, topk: int = 5) -> None:
        self.task = cfg.default_scope
        self.meta = complete_classes(get_dataset_meta(cfg, model), cfg)
        self.classes = self.meta.get("classes")
        self.pipeline = build_test_pipeline(cfg)
        self.channels = get_input_channels(model)
        self.predicts_saliency = predicts_saliency(cfg)
        self.model, self.amp, self.score_thr, self.topk = model, amp, score_thr, topk
        self.visualizer = build_visualizer(cfg, self.meta)

    def __call__(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray | None] | None = None
    ) -> list[BaseDataElement]:
        """Predict on images. Consecutive images of the same size after the pipeline form one batch.

        Args:
            images (Sequence[np.ndarray]): Images (H, W, 3), uint8, BGR, of any sizes. Models of one channel convert
                them to gray. Models of other channels need images (H, W, C), see :attr:`channels`.
            boxes (Sequence[np.ndarray | None], optional): For pose estimation, the people in each image: an array
                (n, 5) of x1, y1, x2, y2 in pixels and score. None stands for one person that fills the image. Defaults
                to None for all images. Other tasks ignore the boxes.

        Returns:
            list[BaseDataElement]: A data sample for each image, as listed in the description of the class. For an image
            without people (n = 0), the sample of pose estimation is empty.

        Raises:
            UserError: If an image has fewer channels than the model reads.
        """
        entries = []
        for i, image in enumerate(images):
            data = make_loaded_results(fit_channels(image, self.channels), i)
            if self.task != "mmpose":
                entries.append((i, self.pipeline(data)))
                continue
            people = boxes[i] if boxes is not None else None
            if people is None:
                people = np.array([[0, 0, *image.shape[1::-1], 1]], np.float32)
            for box in people.astype(np.float32):
                person = dict(data, bbox=box[None, :4], bbox_score=box[4:], **self.meta)
                entries.append((i, self.pipeline(person)))
        samples_of_image = [[] for _ in images]
        for _, group in groupby(entries, lambda entry: entry[1]["inputs"].shape):
            indices, batch = zip(*group, strict=True)
            with torch.no_grad(), self._autocast_backbone():
                for i, sample in zip(indices, self.model.test_step(pseudo_collate(batch)), strict=True):
                    samples_of_image[i].append(sample)
        return [self._merge_samples(samples) for samples in samples_of_image]

    def _autocast_backbone(self) -> contextlib.AbstractContextManager:
        """Return a context in which the backbone runs in mixed precision, if ``amp`` asks for it."""
        if not self.amp:
            return contextlib.nullcontext()
        on_gpu = next(self.model.parameters()).is_cuda
        return autocast_backbone(self.model.backbone, torch.float16 if on_gpu else torch.bfloat16)

    def _merge_samples(self, samples: list[BaseDataElement]) -> BaseDataElement:
        """Merge the samples of an image, which in pose estimation are one for each person."""
        if self.task != "mmpose":
            return samples[0]
        from mmpose.structures import PoseDataSample, merge_data_samples

        return merge_data_samples(samples) if samples else PoseDataSample()

    def record(self, sample: BaseDataElement) -> dict:
        """Convert a prediction to a dict that can be written as JSON.

        Args:
            sample (BaseDataElement): Data sample of an image.

        Returns:
            dict: One key, which depends on the task. Every class is given by ``class``, its name, and ``index``.

            - classification: ``top``, a list of the best classes, each with ``score``;
            - detection: ``instances``, a list of classes with ``score``, ``bbox`` (x1, y1, x2, y2 in pixels) and, if
              the model predicts masks, ``mask`` (COCO RLE);
            - panoptic segmentation: ``segments``, a list of classes with ``id`` (the value in the map from
              :meth:`labels`), ``isthing`` and ``area`` in pixels;
            - semantic segmentation: ``areas``, a list of classes with ``share`` of the image, in descending order;
            - saliency: ``salient``, the share of the image whose saliency is above 0.5;
            - pose estimation: ``people``, a list of ``bbox`` and ``keypoints``, each with ``name``, ``x``, ``y`` and
              ``score``.
        """
        if "pred_score" in sample:
            scores, labels = sample.pred_score.float().topk(min(self.topk, sample.pred_score.numel()))
            return dict(
                top=[
                    dict(**self._describe_class(label), score=score)
                    for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
                ]
            )
        if "pred_panoptic_seg" in sample:
            return dict(segments=self._list_segments(self.labels(sample)))
        if self.predicts_saliency:
            return dict(salient=float((sample.seg_logits.data[0] > 0.5).float().mean()))
        if "pred_sem_seg" in sample:
            values, counts = np.unique(self.labels(sample), return_counts=True)
            order = np.argsort(-counts)
            total = counts.sum()
            return dict(
                areas=[dict(**self._describe_class(int(values[i])), share=float(counts[i] / total)) for i in order]
            )
        if self.task == "mmpose":
            return dict(people=self._list_people(sample))
        instances = sample.pred_instances[sample.pred_instances.scores >= self.score_thr].cpu()
        records = []
        for i in range(len(instances)):
            record = dict(**self._describe_class(int(instances.labels[i])), score=float(instances.scores[i]))
            record["bbox"] = instances.bboxes[i].tolist()
            if "masks" in instances:
                from pycocotools import mask

                code = mask.encode(np.asfortranarray(instances.masks[i].numpy().astype(np.uint8)))
                record["mask"] = dict(size=code["size"], counts=code["counts"].decode())
            records.append(record)
        return dict(instances=records)

    def _describe_class(self, label: int) -> dict:
        """Return the name and the index of a class."""
        return {"class": get_class_name(self.classes, label), "index": label}

    def _list_segments(self, labels: np.ndarray) -> list[dict]:
        """Return the records of the segments in a panoptic label map (H, W)."""
        values, counts = np.unique(labels, return_counts=True)
        things = set(self.meta.get("thing_classes", ()))
        return [  # mmdet's values are class + 1000 * instance; a class index beyond the last class means no segment
            dict(
                id=value,
                **self._describe_class(value % 1000),
                isthing=self.classes[value % 1000] in things,
                area=int(count),
            )
            for value, count in zip(values.tolist(), counts, strict=True)
            if value % 1000 < len(self.classes)
        ]

    def _list_people(self, sample: BaseDataElement) -> list[dict]:
        """Return the records of the people in a sample of pose estimation."""
        if "pred_instances" not in sample:
            return []
        names = self.meta["keypoint_id2name"]
        people = sample.pred_instances
        return [
            dict(
                bbox=np.asarray(box).tolist(),
                keypoints=[
                    dict(name=names[k], x=float(x), y=float(y), score=float(score))
                    for k, ((x, y), score) in enumerate(zip(points, scores, strict=True))
                ],
            )
            for box, points, scores in zip(people.bboxes, people.keypoints, people.keypoint_scores, strict=True)
        ]

    def labels(self, sample: BaseDataElement) -> np.ndarray | None:
        """Return the label map of a prediction.

        Args:
            sample (BaseDataElement): Data sample of an image.

        Returns:
            np.ndarray | None: A map (H, W) of class indices (semantic segmentation, int64), of class + 1000 * instance
            (panoptic segmentation, int64), or of saliency from 0 to 255 (uint8). None for other tasks.
        """
        if self.predicts_saliency:
            return (255 * sample.seg_logits.data[0].float()).round().byte().cpu().numpy()
        for key in ("pred_panoptic_seg", "pred_sem_seg"):
            if key in sample:
                field = sample.get(key)
                values = (field.sem_seg if key == "pred_panoptic_seg" else field.data)[0]
                return values.cpu().numpy().astype(np.int64)
        return None

    def draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw a prediction on its image.

        Args:
            image (np.ndarray): The image (H, W, 3), uint8, BGR.
            sample (BaseDataElement): Data sample of the image.

        Returns:
            np.ndarray: Drawing (H', W', 3), uint8, BGR. It is larger than the image for classification and semantic
            segmentation, because class scores or a legend are drawn to the right of the image.
        """
        rgb = to_rgb(image)
        record = self.record(sample)
        if "top" in record:
            drawn = draw_beside(rgb, lambda axis: draw_score_bars(axis, record["top"]))
        elif "areas" in record:
            colors = self.meta["palette"]
            rows = [(f"{row['class']} {row['share']:.0%}", colors[row["index"]]) for row in record["areas"]]
            overlay = draw_sample(self.visualizer, rgb, sample, labels=False)
            drawn = draw_beside(
                overlay, lambda axis: draw_legend(axis, [row for row in rows if not row[0].endswith(" 0%")])
            )
        elif "salient" in record:
            drawn = overlay_heatmap(rgb, self.labels(sample))
        else:
            drawn = draw_sample(self.visualizer, rgb, sample, score_thr=self.score_thr)
        return np.ascontiguousarray(drawn[..., ::-1])


def preprocess_images(
    cfg: Config, model: nn.Module, files: Sequence[str], size: int | None = None
) -> tuple[np.ndarray, Tensor]:
    """Prepare image files as a model's input.

    Args:
        cfg (Config): Config of the model. Its test pipeline crops and resizes the images.
        model (nn.Module): Model whose data preprocessor normalizes the images.
        files (Sequence[str]): N image files.
        size (int, optional): Side of the images in pixels. If it is given, images are resized to a square instead of
            going through the test pipeline.

    Returns:
        tuple[np.ndarray, Tensor]: Resized images (N, H, W, 3), uint8, RGB; and normalized images (N, C, H, W).

    Raises:
        UserError: If a file is missing or not an image, or if the pipeline returns images of different sizes.
    """
    pipeline, channels = build_test_pipeline(cfg), get_input_channels(model)
    entries = []
    for file in files:
        image = read_image(file, channels)
        if size is None:
            entry = pipeline(make_loaded_results(image))
        else:
            pixels = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
            entry = dict(inputs=torch.from_numpy(pixels.reshape(size, size, -1).transpose(2, 0, 1).copy()))
        entries.append(entry)
    shapes = {tuple(entry["inputs"].shape[1:]) for entry in entries}
    if len(shapes) > 1:
        raise UserError(f"the config's pipeline makes images of several sizes: {sorted(shapes)}. Set --size")
    resized = np.stack([to_rgb(entry["inputs"].numpy().transpose(1, 2, 0)) for entry in entries])
    inputs = pseudo_collate([dict(inputs=entry["inputs"]) for entry in entries])
    return resized, model.data_preprocessor(inputs, False)["inputs"]
