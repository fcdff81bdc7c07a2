"""What a model predicts on an image: one type for each task, with arrays in pixels of the original image."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from van_mm.apis.inputs import LoadedImage
from van_mm.utils.errors import UserError
from van_mm.visualization.class_names import list_names
from van_mm.visualization.drawing import draw_sample, get_class_name
from van_mm.visualization.figures import overlay_heatmap
from van_mm.visualization.model_inputs import enlarge_small_image, to_rgb
from van_mm.visualization.panels import draw_beside, draw_legend, draw_score_bars


@dataclass
class TaskContext:
    """What all results of a model share.

    Attributes:
        meta (dict): Meta information of the data set: names and colors of the classes, keypoints and their skeleton.
        visualizer (Visualizer): Visualizer of the codebase.
        score_thr (float): Minimum score of a detection.
        topk (int): Number of classes that a classification lists.
        names (tuple[str]): Names of the classes by index; of the keypoints for pose estimation.
    """

    meta: dict
    visualizer: Visualizer
    score_thr: float = 0.3
    topk: int = 5
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        classes = list_names(self.meta.get("keypoint_id2name") or self.meta.get("classes"))
        self.names = tuple(get_class_name(classes, label) for label in range(len(classes)))


class Result:
    """The prediction on one image.

    Attributes:
        image (np.ndarray): The image (H, W, 3), uint8, BGR, as it was read.
        path (str): Its file or URL; empty for an image from memory.
        frame (int, optional): Number of the frame, counted from 0, if the image is of a video.
        names (tuple[str]): Names of the model's classes by index; of its keypoints for pose estimation.
        sample (BaseDataElement): The data sample of the codebase, on the CPU.
    """

    def __init__(self, sample: BaseDataElement, image: LoadedImage, context: TaskContext) -> None:
        self.sample, self._context = sample, context
        self.image, self.path, self.frame, self.names = image.pixels, image.path, image.frame, context.names

    def to_dict(self) -> dict:
        """Return the prediction as a dict that JSON can hold.

        Returns:
            dict: ``file``, ``size`` (width, height), ``frame`` for videos, and one key that depends on the task. Every
            class is given by ``class``, its name, and ``index``.

            - classification: ``top``, a list of the best classes, each with ``score``;
            - detection: ``instances``, a list of classes with ``score``, ``bbox`` (x1, y1, x2, y2 in pixels) and, if
              the model predicts masks, ``mask`` (COCO RLE);
            - panoptic segmentation: ``segments``, a list of classes with ``id`` (the value in the map), ``isthing`` and
              ``area`` in pixels;
            - semantic segmentation: ``areas``, a list of classes with ``share`` of the image, in descending order;
            - saliency: ``salient``, the share of the image whose saliency is above 0.5;
            - pose estimation: ``people``, a list of ``bbox`` and ``keypoints``, each with ``name``, ``x``, ``y`` and
              ``score``.
        """
        frame = {} if self.frame is None else dict(frame=self.frame)
        return dict(file=self.path, size=list(self.image.shape[1::-1]), **frame, **self._describe())

    def draw(self) -> np.ndarray:
        """Draw the prediction on the image.

        Returns:
            np.ndarray: Drawing (H', W', 3), uint8, BGR. Small images are enlarged, and class scores or a legend are
            drawn to the right of the image.
        """
        return np.ascontiguousarray(self._draw(*enlarge_small_image(to_rgb(self.image), self.sample))[..., ::-1])

    def show(self) -> None:
        """Open the drawing in the system's image viewer. Notebooks show a result that ends a cell by themselves.

        Raises:
            UserError: If there is no image viewer.
        """
        from PIL import Image, ImageShow

        if not ImageShow.show(Image.fromarray(self.draw()[..., ::-1])):
            raise UserError("there is no image viewer on this machine. Use result.save(folder)")

    def save(self, folder: str | Path, name: str | None = None) -> list[Path]:
        """Write the prediction to files.

        Args:
            folder (str | Path): Folder of the files. It is created if it does not exist.
            name (str, optional): Name of the files without suffix. Defaults to the image's name, followed by the number
                of the frame in a video; ``image`` for images from memory.

        Returns:
            list[Path]: ``NAME.png``, the drawing; ``NAME.json``, see :meth:`to_dict`; and for segmentation
            ``NAME_labels.png``, the map itself: class indices, class + 1000 * instance in 16 bits, or saliency from 0
            to 255.

        Raises:
            UserError: If a file can't be written, or would be written over the image that it shows.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if name is None:
            name = Path(self.path.split("?")[0]).stem or "image"
            name += "" if self.frame is None else f"_{self.frame:06d}"
        images = {f"{name}.png": self.draw()}
        labels = self._make_label_image()
        if labels is not None:
            images[f"{name}_labels.png"] = labels
        if (clash := next((file for file in images if is_same_file(folder / file, self.path)), None)) is not None:
            raise UserError(f"{folder / clash} would be written over the image. Give another folder")
        for file, pixels in images.items():
            if not cv2.imwrite(str(folder / file), pixels):
                raise UserError(f"{folder / file} can't be written. Give another folder")
        (folder / f"{name}.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        return [folder / file for file in (*images, f"{name}.json")]

    def _describe(self) -> dict:
        """Return the entry of :meth:`to_dict` that depends on the task."""
        raise NotImplementedError

    def _draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw on an image (H, W, 3), uint8, RGB, which may be larger than the original one, as ``sample`` then is."""
        return draw_sample(self._context.visualizer, image, sample, score_thr=self._context.score_thr)

    def _make_label_image(self) -> np.ndarray | None:
        """Return the map that :meth:`save` writes, uint8 or uint16, or None if the task has none."""
        return None

    def _name_class(self, label: int) -> dict:
        """Return the name and the index of a class."""
        return {"class": get_class_name(self.names, label), "index": label}

    def _summarize(self) -> str:
        """Return the prediction in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        source = Path(self.path).name if self.path else "image"
        frame = "" if self.frame is None else f", frame {self.frame}"
        return f"{type(self).__name__}({source}{frame}, {width} x {height}: {self._summarize()})"

    def _repr_png_(self) -> bytes:
        """Return the drawing for a notebook."""
        return cv2.imencode(".png", self.draw())[1].tobytes()


class ScoredClass(NamedTuple):
    """A class with its score, as :attr:`ClassificationResult.top` lists it."""

    name: str
    index: int
    score: float


class ClassificationResult(Result):
    """Scores of classes.

    Attributes:
        scores (np.ndarray): Scores (classes,), which sum to 1 for single-label models.
        top (list[ScoredClass]): The best classes, the best first.
        labels (np.ndarray): Their indices (k,).
    """

    def __init__(self, sample: BaseDataElement, image: LoadedImage, context: TaskContext) -> None:
        super().__init__(sample, image, context)
        self.scores = sample.pred_score.float().numpy()
        self.labels = np.argsort(-self.scores, kind="stable")[: context.topk]
        self.top = [ScoredClass(get_class_name(self.names, i), int(i), float(self.scores[i])) for i in self.labels]

    def _describe(self) -> dict:
        return dict(top=[{"class": one.name, "index": one.index, "score": one.score} for one in self.top])

    def _draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        return draw_beside(image, lambda axis: draw_score_bars(axis, self._describe()["top"]))

    def _summarize(self) -> str:
        return ", ".join(f"{one.name} {one.score:.2f}" for one in self.top[:3])


class DetectionResult(Result):
    """Boxes of objects, with masks if the model predicts them, the highest scores first.

    Attributes:
        boxes (np.ndarray): Boxes (n, 4) as x1, y1, x2, y2 in pixels.
        scores (np.ndarray): Scores (n,), all of at least ``score_thr``.
        labels (np.ndarray): Indices of the classes (n,).
        masks (np.ndarray, optional): Masks (n, H, W), bool; None if the model predicts none.
    """

    def __init__(self, sample: BaseDataElement, image: LoadedImage, context: TaskContext) -> None:
        super().__init__(sample, image, context)
        found = sample.pred_instances
        found = found[found.scores >= context.score_thr]
        found = sample.pred_instances = found[found.scores.argsort(descending=True, stable=True)]
        self.boxes, self.scores = found.bboxes.float().numpy(), found.scores.float().numpy()
        self.labels = found.labels.numpy()
        self.masks = np.asarray(found.masks).astype(bool) if "masks" in found else None

    def __len__(self) -> int:
        return len(self.boxes)

    def _describe(self) -> dict:
        records = [
            dict(**self._name_class(label), score=score, bbox=box)
            for label, score, box in zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]
        for record, mask in zip(records, self.masks if self.masks is not None else (), strict=False):
            from pycocotools.mask import encode

            code = encode(np.asfortranarray(mask.astype(np.uint8)))
            record["mask"] = dict(size=code["size"], counts=code["counts"].decode())
        return dict(instances=records)

    def _summarize(self) -> str:
        return count_names([get_class_name(self.names, label) for label in self.labels.tolist()]) or "no objects"


class PanopticResult(Result):
    """Segments that cover the image.

    Attributes:
        panoptic (np.ndarray): Class + 1000 * instance of each pixel (H, W), int64. A class beyond the last one means
            that a pixel belongs to no segment.
        segments (list[dict]): Segments as in :meth:`Result.to_dict`.
    """

    def __init__(self, sample: BaseDataElement, image: LoadedImage, context: TaskContext) -> None:
        super().__init__(sample, image, context)
        self.panoptic = sample.pred_panoptic_seg.sem_seg[0].numpy().astype(np.int64)
        things = set(context.meta.get("thing_classes", ()))
        values, counts = np.unique(self.panoptic, return_counts=True)
        self.segments = [
            dict(
                id=value,
                **self._name_class(value % 1000),
                isthing=context.meta["classes"][value % 1000] in things,
                area=count,
            )
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
            if value % 1000 < len(self.names)
        ]

    def _describe(self) -> dict:
        return dict(segments=self.segments)

    def _make_label_image(self) -> np.ndarray:
        return self.panoptic.astype(np.uint16 if self.panoptic.max() > 255 else np.uint8)

    def _summarize(self) -> str:
        return count_names([segment["class"] for segment in self.segments]) or "no segments"


class SegmentationResult(Result):
    """A class for each pixel.

    Attributes:
        label_map (np.ndarray): Index of the class of each pixel (H, W), int64.
        areas (list[dict]): Classes as in :meth:`Result.to_dict`, the largest first.
    """

    def __init__(self, sample: BaseDataElement, image: LoadedImage, context: TaskContext) -> None:
        super().__init__(sample, image, context)
        self.label_map = sample.pred_sem_seg.data[0].numpy().astype(np.int64)
        labels, counts = np.unique(self.label_map, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        self.areas = [
            dict(**self._name_class(int(labels[i])), share=float(counts[i] / self.label_map.size)) for i in order
        ]

    def _describe(self) -> dict:
        return dict(areas=self.areas)

    def _draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        overlay = draw_sample(self._context.visualizer, image, sample, labels=False)
        colors = self._context.meta["palette"]
        rows = [(f"{row['class']} {row['share']:.0%}", colors[row["index"]]) for row in self.areas]
        return draw_beside(overlay, lambda axis: draw_legend(axis, [row for row in rows if not row[0].endswith(" 0%")]))

    def _make_label_image(self) -> np.ndarray:
        return self.label_map.astype(np.uint16 if self.label_map.max() > 255 else np.uint8)

    def _summarize(self) -> str:
        return ", ".join(f"{row['class']} {row['share']:.0%}" for row in self.areas[:3])


class SaliencyResult(Result):
    """How much each pixel stands out.

    Attributes:
        saliency (np.ndarray): Saliency (H, W), float32, from 0 to 1.
    """

    def __init__(self, sample: BaseDataElement, image: LoadedImage, context: TaskContext) -> None:
        super().__init__(sample, image, context)
        self.saliency = sample.seg_logits.data[0].float().numpy()

    def _describe(self) -> dict:
        return dict(salient=float((self.saliency > 0.5).mean()))

    def _draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        return overlay_heatmap(image, self._make_label_image())

    def _make_label_image(self) -> np.ndarray:
        return np.round(255 * self.saliency).astype(np.uint8)

    def _summarize(self) -> str:
        return f"{self._describe()['salient']:.0%} salient"


class PoseResult(Result):
    """Keypoints of people.

    Attributes:
        boxes (np.ndarray): Boxes of the people (n, 4) as x1, y1, x2, y2 in pixels.
        scores (np.ndarray): Scores of the boxes (n,).
        keypoints (np.ndarray): Keypoints (n, K, 2) as x, y in pixels, in the order of ``names``.
        keypoint_scores (np.ndarray): Scores of the keypoints (n, K).
    """

    def __init__(self, sample: BaseDataElement, image: LoadedImage, context: TaskContext) -> None:
        super().__init__(sample, image, context)
        found, count = sample.get("pred_instances") or {}, len(self.names)
        shapes = dict(bboxes=(0, 4), bbox_scores=(0,), keypoints=(0, count, 2), keypoint_scores=(0, count))
        self.boxes, self.scores, self.keypoints, self.keypoint_scores = (
            np.asarray(found[key]) if len(found) else np.zeros(shape, np.float32) for key, shape in shapes.items()
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def _describe(self) -> dict:
        return dict(
            people=[
                dict(
                    bbox=box.tolist(),
                    keypoints=[
                        dict(name=name, x=float(x), y=float(y), score=float(score))
                        for name, (x, y), score in zip(self.names, points, scores, strict=True)
                    ],
                )
                for box, points, scores in zip(self.boxes, self.keypoints, self.keypoint_scores, strict=True)
            ]
        )

    def _summarize(self) -> str:
        return f"{len(self)} {'person' if len(self) == 1 else 'people'}"


def make_result(sample: BaseDataElement, image: LoadedImage, context: TaskContext, is_saliency: bool) -> Result:
    """Return the result of the task that a data sample belongs to."""
    if "pred_sem_seg" in sample and not is_saliency:
        sample.pop("seg_logits", None)  # many times as large as the image
    sample = sample.detach().cpu()
    if "pred_score" in sample:
        kind = ClassificationResult
    elif "pred_panoptic_seg" in sample:
        kind = PanopticResult
    elif is_saliency:
        kind = SaliencyResult
    elif "pred_sem_seg" in sample:
        kind = SegmentationResult
    else:
        kind = PoseResult if "keypoint_id2name" in context.meta else DetectionResult
    return kind(sample, image, context)


def is_same_file(file: Path, path: str) -> bool:
    """Return whether a file is the one at a path."""
    return bool(path) and file.exists() and Path(path).exists() and file.samefile(path)


def count_names(names: Sequence[str]) -> str:
    """Return how often each name occurs, for the five most frequent names.

    Example:
        >>> count_names(["cat", "dog", "cat"])
        '2 cat, 1 dog'
    """
    counts = Counter(names).most_common()
    texts = [f"{count} {name}" for name, count in counts[:5]]
    rest = sum(count for _, count in counts[5:])
    return ", ".join([*texts, f"{rest} more"] if rest else texts)
