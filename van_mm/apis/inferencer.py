"""Predict on images with the model of any config."""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from van_mm.apis.build import build_model, get_input_channels, hide_upstream_messages
from van_mm.apis.checkpoint_config import get_checkpoint_config
from van_mm.apis.configs import find_config, get_experiment_config
from van_mm.apis.inputs import SCHEMES, LoadedImage, iter_images, list_sources
from van_mm.apis.results import Result, TaskContext, make_result
from van_mm.checkpoints.io import CHECKPOINT_SUFFIXES, MODEL_ZOO, MODEL_ZOO_PREFIX, read_checkpoint
from van_mm.models.utils.autocast import autocast_backbone
from van_mm.models.utils.fold import fold as fold_model
from van_mm.utils.config_walk import get_type_name, iter_dicts
from van_mm.utils.errors import ConfigNotFoundError, UserError, wrap_device_errors
from van_mm.utils.image_files import fit_channels, read_image
from van_mm.visualization.class_names import list_names, use_trained_names
from van_mm.visualization.drawing import build_visualizer, complete_classes, predicts_saliency
from van_mm.visualization.model_inputs import to_rgb


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
    trained = getattr(model, "dataset_meta", None) or {}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        try:
            meta = DATASETS.build(dict(copy.deepcopy(get_test_dataset_cfg(cfg)), pipeline=[], lazy_init=True)).metainfo
        except Exception:  # a data set of any kind may need files that only the machine of the training has
            if not list_names(trained.get("classes")):
                raise
            meta = trained
    return use_trained_names(meta, trained)


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
    """A model that predicts on images, from :func:`load`.

    Calling it returns a :class:`~van_mm.apis.results.Result` for each image, whose type and attributes depend on the
    task:

    - classification: :class:`~van_mm.apis.results.ClassificationResult` with ``top`` and ``scores``;
    - detection and instance segmentation: :class:`~van_mm.apis.results.DetectionResult` with ``boxes``, ``scores``,
      ``labels`` and ``masks``;
    - panoptic segmentation: :class:`~van_mm.apis.results.PanopticResult` with ``panoptic`` and ``segments``;
    - semantic segmentation: :class:`~van_mm.apis.results.SegmentationResult` with ``label_map`` and ``areas``;
    - saliency: :class:`~van_mm.apis.results.SaliencyResult` with ``saliency``;
    - pose estimation: :class:`~van_mm.apis.results.PoseResult` with ``boxes``, ``keypoints`` and ``keypoint_scores``.

    Args:
        cfg (Config): Config of the experiment. It must have a test data loader, whose pipeline prepares the images.
        model (nn.Module): Model of the config with its weights, in eval mode.
        amp (bool): Run the backbone in float16 on a GPU, and in bfloat16 on the CPU. Defaults to False.
        score_thr (float): Minimum score of detections. Defaults to 0.3.
        topk (int): Number of classes that results of classification list. Defaults to 5.

    Attributes:
        task (str): Codebase of the model: ``'mmpretrain'``, ``'mmdet'``, ``'mmseg'`` or ``'mmpose'``.
        names (tuple[str]): Names of the classes by index; of the keypoints for pose estimation.
        model (nn.Module): The model.
        source (str): What it was loaded from.
    """

    def __init__(self, cfg: Config, model: nn.Module, amp: bool = False, score_thr: float = 0.3, topk: int = 5) -> None:
        self.task = cfg.default_scope
        with DefaultScope.overwrite_default_scope(self.task):
            meta = complete_classes(get_dataset_meta(cfg, model), cfg)
            self._context = TaskContext(meta, build_visualizer(cfg, meta), score_thr, topk)
            self.pipeline = build_test_pipeline(cfg)
        self.names = self._context.names
        self.channels = get_input_channels(model)
        self.predicts_saliency = predicts_saliency(cfg)
        self.model, self.amp, self.source = model, amp, str(cfg.filename)

    def __call__(
        self,
        inputs,
        *,
        batch_size: int = 1,
        stream: bool = False,
        boxes=None,
        detector: "Inferencer | None" = None,
        on_error: Callable[[str, UserError], None] | None = None,
    ) -> "Result | list[Result] | Iterator[Result]":
        """Predict on images.

        Args:
            inputs: One image, or several.

                - a path or an http(s) URL (str or Path) of an image; of a folder or a glob pattern, whose images are
                  predicted in the order of their names; or of a video, whose frames are;
                - a NumPy array (H, W, 3) in **BGR**, as ``cv2.imread`` returns it, (H, W) for gray, or (N, H, W, 3);
                - a PIL image;
                - a tensor (3, H, W) or (N, 3, H, W) in **RGB**, of integers from 0 to 255 or floating-point numbers
                  from 0 to 1;
                - a list or a generator of any of these.

            batch_size (int): Images per batch. Only consecutive images that have the same size after the test pipeline
                go through the model together. Defaults to 1.
            stream (bool): Return a generator, so that neither the images nor the results have to fit into memory.
                Videos and generators always give a generator. Defaults to False.
            boxes (optional): For pose estimation, the people in the images: for one image an array (n, 4) or (n, 5) of
                x1, y1, x2, y2 in pixels and score; for several a list of such arrays or None; or a function of the
                path and the image that returns one. None stands for one person that fills the image.
            detector (Inferencer, optional): For pose estimation, a model with a class ``person`` that finds the people.
            on_error (Callable, optional): Called with the path and the error of each file that cannot be read, which is
                then skipped. By default, the error is raised.

        Returns:
            Result | list[Result] | Iterator[Result]: One result for one image, a list for several, or a generator.

        Raises:
            UserError: If an input is no image, or has fewer channels than the model reads.

        Example:
            >>> import numpy as np
            >>> result = model(np.zeros((300, 400, 3), np.uint8))
            >>> result.label_map.shape
            (300, 400)
            >>> len(model([np.zeros((300, 400, 3), np.uint8)] * 3, batch_size=3))
            3
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}. Give at least 1")
        if self.task != "mmpose" and (boxes is not None or detector is not None):
            raise UserError(f"boxes and a detector are for pose estimation, but {self.source} is of {self.task}")
        if getattr(self.model, "with_head", True) is False:
            raise UserError(f"{self.source} is a backbone without a head. Call features() for its features")
        sources, is_one, is_lazy = list_sources(inputs)
        is_array = is_one and boxes is not None and not callable(boxes)
        find_boxes = make_box_finder([boxes] if is_array else boxes, detector)
        results = self._iter_results(iter_images(sources, self.channels, batch_size, on_error), batch_size, find_boxes)
        if stream or is_lazy:
            return results
        results = list(results)
        return results[0] if is_one and results else results

    def features(self, inputs, *, batch_size: int = 1) -> np.ndarray:
        """Compute the features of images: the backbone's last feature map, averaged over the image.

        Args:
            inputs: Images as for :meth:`__call__`, except videos.
            batch_size (int): Images per batch. Defaults to 1.

        Returns:
            np.ndarray: Features (C,) of one image, or (N, C) of several, float32.

        Raises:
            UserError: If an input is no image, or if the model has no backbone.

        Example:
            >>> import numpy as np
            >>> a, b = model.features(["photo.jpg", np.zeros((300, 400, 3), np.uint8)])
            >>> float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) > 0.99  # both images are black
            True
        """
        if not hasattr(self.model, "backbone"):
            raise UserError(f"{self.source} has no backbone that gives features. Load the checkpoint of the model")
        sources, is_one, _ = list_sources(inputs)
        features = []
        for batch in iter_batches(iter_images(sources, self.channels, batch_size), batch_size):
            entries = [entry for i, image in enumerate(batch) for entry in self._prepare(i, image, None)]
            for _, group in group_by_shape(entries):
                with self._running():
                    data = self.model.data_preprocessor(pseudo_collate(group), False)
                    maps = self.model.backbone(data["inputs"])
                last = (maps[-1] if isinstance(maps, (list, tuple)) else maps).float()
                features.append(last.mean((2, 3)) if last.ndim == 4 else last.flatten(1))
        features = torch.cat(features).cpu().numpy()
        return features[0] if is_one else features

    def _iter_results(self, images: Iterator[LoadedImage], batch_size: int, find_boxes: Callable) -> Iterator[Result]:
        """Yield the results of images, batch by batch."""
        number = 0
        for batch in iter_batches(images, batch_size):
            boxes = [find_boxes(number + i, image) for i, image in enumerate(batch)]
            number += len(batch)
            for sample, image in zip(self.predict_samples(batch, boxes), batch, strict=True):
                yield make_result(sample, image, self._context, self.predicts_saliency)

    def predict_samples(
        self, images: Sequence[LoadedImage], boxes: Sequence[np.ndarray | None]
    ) -> list[BaseDataElement]:
        """Predict on images in memory. Consecutive images of the same size after the pipeline form one batch.

        Args:
            images (Sequence[LoadedImage]): Images of any sizes.
            boxes (Sequence[np.ndarray | None]): For pose estimation, the people in each image (n, 5).

        Returns:
            list[BaseDataElement]: A data sample of the codebase for each image, in pixels of the original image. For an
            image without people (n = 0), the sample of pose estimation is empty.
        """
        entries = [entry for i, image in enumerate(images) for entry in self._prepare(i, image, boxes[i])]
        samples_of_image = [[] for _ in images]
        for indices, group in group_by_shape(entries):
            with self._running():
                samples = self.model.test_step(pseudo_collate(group))
            for i, sample in zip(indices, samples, strict=True):
                samples_of_image[i].append(sample)
        return [self._merge_samples(samples) for samples in samples_of_image]

    def _prepare(self, number: int, image: LoadedImage, boxes: np.ndarray | None) -> Iterator[tuple[int, dict]]:
        """Yield the number of an image with its output of the pipeline; for pose estimation, one for each person."""
        with DefaultScope.overwrite_default_scope(self.task):
            pixels = fit_channels(image.pixels, self.channels, image.path or "the image")
            data = dict(make_loaded_results(pixels, number), img_path=image.path)
            if self.task != "mmpose":
                yield number, self.pipeline(data)
                return
            if boxes is None:
                boxes = np.array([[0, 0, *pixels.shape[1::-1], 1]], np.float32)
            for box in boxes:
                yield number, self.pipeline(dict(data, bbox=box[None, :4], bbox_score=box[4:], **self._context.meta))

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Run the model without gradients, in its codebase's scope, and in mixed precision if ``amp`` asks for it."""
        precision = contextlib.nullcontext()
        if self.amp:
            on_gpu = next(self.model.parameters()).is_cuda
            precision = autocast_backbone(self.model.backbone, torch.float16 if on_gpu else torch.bfloat16)
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self.task), precision:
            yield

    def _merge_samples(self, samples: list[BaseDataElement]) -> BaseDataElement:
        """Merge the samples of an image, which in pose estimation are one for each person."""
        if self.task != "mmpose":
            return samples[0]
        from mmpose.structures import PoseDataSample, merge_data_samples

        return merge_data_samples(samples) if samples else PoseDataSample()

    def __repr__(self) -> str:
        names = ", ".join(self.names[:3]) + (", ..." if len(self.names) > 3 else "")
        kind = "keypoints" if self.task == "mmpose" else "classes"
        return f"Inferencer({self.source}: {self.task}, {len(self.names)} {kind}: {names})"


def iter_batches(images: Iterable, size: int) -> Iterator[list]:
    """Yield lists of at most ``size`` consecutive images."""
    images = iter(images)
    while batch := list(islice(images, size)):
        yield batch


def group_by_shape(entries: Iterable[tuple[int, dict]]) -> Iterator[tuple[list[int], list[dict]]]:
    """Yield the numbers and the inputs of consecutive entries whose images have the same shape."""
    for _, same in groupby(entries, lambda entry: entry[1]["inputs"].shape):
        numbers, group = zip(*same, strict=True)
        yield list(numbers), list(group)


def make_box_finder(boxes, detector: Inferencer | None) -> Callable[[int, LoadedImage], np.ndarray | None]:
    """Return a function from the number of an image and the image to the boxes of its people (n, 5), or None.

    Raises:
        UserError: If there are both boxes and a detector, or if the detector has no class ``person``.
    """
    if detector is not None:
        if boxes is not None:
            raise UserError("there are boxes and a detector. Give one of them")
        if detector.task != "mmdet" or "person" not in detector.names:
            raise UserError(f"{detector.source} is no detector with a class 'person'. Give another detector")
        person = detector.names.index("person")

        def detect(_: int, image: LoadedImage) -> np.ndarray:
            result = detector(image.pixels)
            found = result.labels == person
            return np.column_stack([result.boxes[found], result.scores[found]]).astype(np.float32)

        return detect

    def find(number: int, image: LoadedImage) -> np.ndarray | None:
        if boxes is None:
            return None
        found = boxes(image.path, image.pixels) if callable(boxes) else boxes[number]
        return None if found is None else to_scored_boxes(found)

    return find


def to_scored_boxes(boxes) -> np.ndarray:
    """Return boxes (n, 4) or (n, 5) as an array (n, 5), with a score of 1 where there is none.

    Raises:
        UserError: If they are no boxes.
    """
    try:
        boxes = np.asarray(boxes, np.float32)
        boxes = boxes.reshape(-1, boxes.shape[-1] if boxes.size else 5)
    except (ValueError, TypeError) as error:
        raise UserError(f"boxes are no numbers ({error}). Give an array (n, 4) of x1, y1, x2, y2") from error
    if boxes.shape[1] == 4:
        boxes = np.column_stack([boxes, np.ones(len(boxes), np.float32)])
    if boxes.shape[1] != 5:
        raise UserError(f"boxes have the shape {boxes.shape}. Give (n, 4) of x1, y1, x2, y2, or (n, 5) with the score")
    return boxes


def load(
    model,
    checkpoint: str | Path | None = None,
    *,
    device: str | None = None,
    fold: bool = False,
    amp: bool = False,
    score_thr: float = 0.3,
    topk: int = 5,
) -> Inferencer:
    """Load a trained model for prediction.

    Models of different codebases can be used in one process.

    Args:
        model (str | Path | Config): One of

            - a checkpoint of a training: a path or a URL. The config and the names of the classes are in it;
            - a name of the model zoo, with or without ``van_mm://``, such as ``'b2_in1k_cls'``;
            - a file that ``tools/deploy/export_onnx.py`` wrote (``.onnx``), or that OpenVINO made of one (``.xml``);
            - a config: an object, a path or a name. The checkpoint is then the second argument.

        checkpoint (str | Path, optional): Checkpoint of the config: a path, a URL or a name of the model zoo.
        device (str, optional): Such as ``'cpu'`` or ``'cuda:1'``. Defaults to the first GPU, or the CPU without one.
        fold (bool): Fold BatchNorm and LayerScale into the convolutions, which is faster. Defaults to False.
        amp (bool): Run the backbone in float16 on a GPU, and in bfloat16 on the CPU. Defaults to False.
        score_thr (float): Minimum score of detections. Defaults to 0.3.
        topk (int): Number of classes that results of classification list. Defaults to 5.

    Returns:
        Inferencer: Call it with images.

    Raises:
        UserError: If there is no such checkpoint, config or device, or if they do not fit together. A checkpoint never
            runs code: its config is read as data, and files are read with ``weights_only=True``.

    Example:
        >>> import van_mm
        >>> model = van_mm.load("work_dirs/fields/best.pth")
        >>> result = model("photo.jpg")
        >>> result
        SegmentationResult(photo.jpg, 400 x 300: soil 100%)
        >>> result.label_map.shape, result.names
        ((300, 400), ('soil', 'crop', 'weed'))
        >>> [path.name for path in result.save("out")]
        ['photo.png', 'photo_labels.png', 'photo.json']
    """
    options = dict(amp=amp, score_thr=score_thr, topk=topk)
    if isinstance(model, (str, Path)) and str(model).endswith((".onnx", ".xml")) and checkpoint is None:
        if amp:
            raise UserError(f"{model} runs in the precision that it was exported in. Load it without amp")
        from van_mm.apis.exported_model import load_exported

        return Inferencer(*load_exported(str(model)), **options)
    cfg, loaded = load_model(model, checkpoint)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with wrap_device_errors(device):
        loaded = loaded.to(device)
    inferencer = Inferencer(cfg, fold_model(loaded) if fold else loaded, **options)
    inferencer.source = str(model if checkpoint is None else checkpoint)
    return inferencer


def load_model(model, checkpoint: str | Path | None = None) -> tuple[Config, nn.Module]:
    """Return the config and the model of the arguments of :func:`load`, on the CPU, in eval mode."""
    source = str(model if checkpoint is None else checkpoint)
    source = f"{MODEL_ZOO_PREFIX}{source}" if source in MODEL_ZOO and not Path(source).exists() else source
    if checkpoint is None and (isinstance(model, Config) or is_config(source)):
        name = model.filename if isinstance(model, Config) else model
        raise UserError(
            f"{name} is a config, which has no weights. Name a checkpoint too: van_mm.load(config, checkpoint)"
        )
    content = read_checkpoint(source)
    if checkpoint is None:
        cfg = get_checkpoint_config(content, source)
    else:
        cfg = copy.deepcopy(model) if isinstance(model, Config) else get_experiment_config(str(model))
    with DefaultScope.overwrite_default_scope(cfg.default_scope), hide_upstream_messages():
        return cfg, build_model(cfg, source, content)


def is_config(source: str) -> bool:
    """Return whether a name or a path is that of a config."""
    if Path(source).suffix in CHECKPOINT_SUFFIXES or source.startswith((*SCHEMES, MODEL_ZOO_PREFIX)):
        return False
    try:
        return bool(find_config(source)) and (source.endswith(".py") or not Path(source).is_file())
    except ConfigNotFoundError:
        return False


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
