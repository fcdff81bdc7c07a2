"""Predictions of any experiment of the suite on pictures: samples, drawings, and records for other programs."""

import contextlib
import copy
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from van_mm.demo import dicts
from van_mm.errors import UserError

from .draw import class_name, draw, is_saliency, visualizer_of
from .figures import heat_over, pyplot


def dataset_meta(cfg: Config) -> dict:
    """Names of classes and keypoints, and colours, that the config's data set has; its files are not needed."""
    init_default_scope(cfg.default_scope)
    return DATASETS.build(dict(copy.deepcopy(tested_dataset(cfg)), pipeline=[], lazy_init=True)).metainfo


def pipeline_of(cfg: Config) -> Compose:
    """The config's test pipeline for pictures in memory: nothing is loaded from files."""
    return Compose([node for node in tested_dataset(cfg).pipeline if "Load" not in node["type"]])


def tested_dataset(cfg: Config) -> ConfigDict:
    """The (first) data set that the config tests on.

    Raises:
        UserError: If it only trains.
    """
    if not cfg.test_dataloader:
        raise UserError(f"{cfg.filename} only trains: it has no test pipeline to feed pictures by")
    return next(node for node in dicts(cfg.test_dataloader.dataset) if "pipeline" in node)


def as_loaded(image: np.ndarray, number: int = 0) -> dict:
    """A picture (H, W, 3, uint8, BGR) as the pipelines' loading leaves it."""
    size = image.shape[:2]
    return dict(img=image, img_path="", img_id=number, img_shape=size, ori_shape=size)


class Predictor:
    """A model that takes pictures and gives data samples, drawings and records.

    Args:
        cfg (Config): Of the experiment.
        model (nn.Module): Built from it, with weights, in eval mode.
        amp (bool): Run the backbone in bfloat16 (float16 on a GPU). Defaults to False.
        score_thr (float): Detections below this score are left out. Defaults to 0.3.
        topk (int): Classes that classification tells. Defaults to 5.
    """

    def __init__(self, cfg: Config, model: nn.Module, amp: bool = False, score_thr: float = 0.3, topk: int = 5) -> None:
        self.task = cfg.default_scope
        self.meta = dataset_meta(cfg)
        self.classes = self.meta.get("classes")
        self.pipeline = pipeline_of(cfg)
        self.model, self.amp, self.score_thr, self.topk = model, amp, score_thr, topk
        self.visualizer = visualizer_of(cfg, self.meta)

    def __call__(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray | None] | None = None
    ) -> list[BaseDataElement]:
        """Predict.

        Args:
            images (Sequence[np.ndarray]): (H, W, 3, uint8, BGR) each.
            boxes (Sequence[np.ndarray | None], optional): People (n, 5) of each picture for pose, as x1, y1, x2, y2
                and score; without them the whole picture is one.

        Returns:
            list[BaseDataElement]: The codebase's data sample of each picture, in its pixels.
        """
        entries = []
        for i, image in enumerate(images):
            data = as_loaded(image, i)
            if self.task != "mmpose":
                entries.append((i, self.pipeline(data)))
                continue
            people = boxes[i] if boxes is not None else None
            if people is None:
                people = np.array([[0, 0, *image.shape[1::-1], 1]], np.float32)
            for box in people.astype(np.float32):
                person = dict(data, bbox=box[None, :4], bbox_score=box[4:], **self.meta)
                entries.append((i, self.pipeline(person)))
        found = [[] for _ in images]
        for _, group in groupby(entries, lambda entry: entry[1]["inputs"].shape):
            indices, batch = zip(*group, strict=True)
            with torch.no_grad(), self._precision():
                for i, sample in zip(indices, self.model.test_step(pseudo_collate(batch)), strict=True):
                    found[i].append(sample)
        return [self._merged(samples) for samples in found]

    @contextlib.contextmanager
    def _precision(self):
        """Autocast for the backbone alone: mmcv's operators and some heads know no bfloat16."""
        if not self.amp:
            yield
            return
        device = next(self.model.parameters()).device.type
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        forward = self.model.backbone.forward

        def cast(images):
            with torch.autocast(device, dtype):
                return tuple(out.float() for out in forward(images))

        self.model.backbone.forward = cast
        try:
            yield
        finally:
            del self.model.backbone.forward

    def _merged(self, samples: list[BaseDataElement]) -> BaseDataElement:
        """One sample of a picture, also of several people or of none."""
        if self.task != "mmpose":
            return samples[0]
        from mmpose.structures import PoseDataSample, merge_data_samples

        return merge_data_samples(samples) if samples else PoseDataSample()

    def record(self, sample: BaseDataElement) -> dict:
        """A prediction as JSON can hold it.

        Returns:
            dict: ``top`` for classification: class, index and score of the best. ``instances`` for detection: class,
            index, score, ``bbox`` (x1, y1, x2, y2 in pixels) and, where there are masks, ``mask`` (COCO RLE).
            ``segments`` for panoptic segmentation: id (the value in the PNG beside it), class, index, ``isthing`` and
            area in pixels. ``areas`` for semantic segmentation: class, index and share of the picture. ``salient``:
            share of the picture above one half. ``people`` for pose: ``bbox`` and named keypoints with x, y and score.
        """
        if "pred_score" in sample:
            scores, labels = sample.pred_score.float().topk(min(self.topk, sample.pred_score.numel()))
            return dict(
                top=[
                    dict(**self._class(label), score=score)
                    for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
                ]
            )
        if "pred_panoptic_seg" in sample:
            return dict(segments=self._segments(self.labels(sample)))
        if is_saliency(sample):
            return dict(salient=float((sample.seg_logits.data[0] > 0.5).float().mean()))
        if "pred_sem_seg" in sample:
            values, counts = np.unique(self.labels(sample), return_counts=True)
            order = np.argsort(-counts)
            total = counts.sum()
            return dict(areas=[dict(**self._class(int(values[i])), share=float(counts[i] / total)) for i in order])
        if self.task == "mmpose":
            return dict(people=self._people(sample))
        instances = sample.pred_instances[sample.pred_instances.scores >= self.score_thr].cpu()
        found = []
        for i in range(len(instances)):
            one = dict(**self._class(int(instances.labels[i])), score=float(instances.scores[i]))
            one["bbox"] = instances.bboxes[i].tolist()
            if "masks" in instances:
                from pycocotools import mask

                code = mask.encode(np.asfortranarray(instances.masks[i].numpy().astype(np.uint8)))
                one["mask"] = dict(size=code["size"], counts=code["counts"].decode())
            found.append(one)
        return dict(instances=found)

    def _class(self, label: int) -> dict:
        return {"class": class_name(self.classes, label), "index": label}

    def _segments(self, labels: np.ndarray) -> list[dict]:
        values, counts = np.unique(labels, return_counts=True)
        things = set(self.meta.get("thing_classes", ()))
        return [  # mmdet's numbers are class + 1000 * instance; a class beyond the last is no class
            dict(
                id=value,
                **self._class(value % 1000),
                isthing=self.classes[value % 1000] in things,
                area=int(count),
            )
            for value, count in zip(values.tolist(), counts, strict=True)
            if value % 1000 < len(self.classes)
        ]

    def _people(self, sample: BaseDataElement) -> list[dict]:
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
        """The map (H, W) that the prediction is, or None: class indices (segmentation), class + 1000 * instance
        (panoptic), 0 to 255 (saliency)."""
        if is_saliency(sample):
            return (255 * sample.seg_logits.data[0].float()).round().byte().cpu().numpy()
        for key in ("pred_panoptic_seg", "pred_sem_seg"):
            if key in sample:
                field = sample.get(key)
                values = (field.sem_seg if key == "pred_panoptic_seg" else field.data)[0]
                return values.cpu().numpy().astype(np.int64)
        return None

    def draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """A prediction on its picture (H, W, 3, uint8, BGR), with the scores of classes or a legend at its right.

        Returns:
            np.ndarray: (H', W', 3, uint8, BGR).
        """
        rgb = np.ascontiguousarray(image[..., ::-1])
        record = self.record(sample)
        if "top" in record:
            drawn = beside(rgb, lambda axis: bars(axis, record["top"]))
        elif "areas" in record:
            colours = self.meta["palette"]
            rows = [(f"{row['class']} {row['share']:.0%}", colours[row["index"]]) for row in record["areas"]]
            overlay = draw(self.visualizer, rgb, sample, labels=False)
            drawn = beside(overlay, lambda axis: legend(axis, [row for row in rows if not row[0].endswith(" 0%")]))
        elif "salient" in record:
            drawn = heat_over(rgb, self.labels(sample))
        else:
            drawn = draw(self.visualizer, rgb, sample, score_thr=self.score_thr)
        return np.ascontiguousarray(drawn[..., ::-1])


def beside(image: np.ndarray, draw_on) -> np.ndarray:
    """``image`` (H, W, 3, RGB), at least 320 pixels high, with what ``draw_on`` draws on an axis at its right."""
    dpi, height = 100, max(image.shape[0], 320)
    width = round(image.shape[1] * height / image.shape[0])
    side = max(300, round(0.35 * width))
    figure = pyplot.figure(figsize=((width + side) / dpi, height / dpi), dpi=dpi)
    axis = figure.add_axes([0, 0, width / (width + side), 1])
    axis.imshow(image, aspect="auto", interpolation="bilinear")
    axis.axis("off")
    draw_on(figure.add_axes([width / (width + side), 0, side / (width + side), 1]))
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    pyplot.close(figure)
    return drawn


def bars(axis, top: list[dict]) -> None:
    """Scores of classes, the best above, on an axis that has no room around it."""
    axis.set(xlim=(-0.08, 1.25), ylim=(len(top) - 0.3, -0.9))
    axis.axis("off")
    for place, row in enumerate(top):
        name = row["class"] if len(row["class"]) < 32 else row["class"][:30] + "…"
        axis.barh(place + 0.2, row["score"], 0.3, color="#0072b2" if place == 0 else "#56b4e9")
        axis.text(0, place - 0.12, name, va="bottom", fontsize=10)
        axis.text(row["score"] + 0.02, place + 0.2, f"{row['score']:.2f}", va="center", fontsize=9)


def legend(axis, rows: list[tuple[str, Sequence[int]]]) -> None:
    """Names beside patches of their colours (RGB)."""
    rows = rows[:18] + ([(f"and {len(rows) - 18} more", (255, 255, 255))] if len(rows) > 18 else [])
    axis.set(xlim=(0, 1), ylim=(max(len(rows), 8), 0))
    axis.axis("off")
    for place, (name, colour) in enumerate(rows):
        patch = pyplot.Rectangle((0.05, place + 0.2), 0.12, 0.6, facecolor=np.array(colour) / 255, edgecolor="#444444")
        axis.add_patch(patch)
        axis.text(0.22, place + 0.5, name, va="center", fontsize=10)
