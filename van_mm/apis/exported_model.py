"""Run models that were exported to ONNX, in onnxruntime or OpenVINO, as if they were PyTorch's."""

import ast
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from van_mm.apis.checkpoint_config import evaluate, read_config
from van_mm.apis.export import CONFIG_KEY, META_KEY, open_onnx_session
from van_mm.utils.errors import UserError


def load_exported(source: str) -> tuple[Config, "ExportedModel"]:
    """Load an exported model with the config and the meta information in its metadata.

    Args:
        source (str): An ONNX file from :func:`van_mm.apis.export.export_onnx`, or an ``.xml`` that OpenVINO's converter
            made of one.

    Returns:
        tuple[Config, ExportedModel]: The config of the model, and the model.

    Raises:
        UserError: If the file or the package that runs it is missing, if the file was not exported by this suite, or if
            it is of a detector, whose export ends at the feature maps.
    """
    if not Path(source).is_file():
        raise UserError(f"no exported model {source}: there is no such file")
    package = "openvino" if source.endswith(".xml") else "onnxruntime"
    if find_spec(package) is None:
        raise UserError(f"{source} needs {package}. Install it: pip install {package}")
    try:
        run, metadata = (open_openvino if package == "openvino" else open_onnx)(source)
    except Exception as error:  # the packages have exceptions of their own
        raise UserError(f"{source} does not load in {package}: {str(error).splitlines()[0]}") from error
    if CONFIG_KEY not in metadata:
        raise UserError(f"{source} does not say what it predicts. Export it with tools/deploy/export_onnx.py")
    cfg = read_config(metadata[CONFIG_KEY], source)
    if cfg.default_scope == "mmdet":
        raise UserError(
            f"{source} is of a detector, whose export ends at the neck's feature maps. Load the checkpoint to predict"
        )
    return cfg, ExportedModel(cfg, run, evaluate(ast.parse(metadata[META_KEY], mode="eval").body))


def open_onnx(source: str) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]:
    """Return a function that runs an ONNX file, and the file's metadata."""
    session = open_onnx_session(source)
    return lambda images: session.run(None, {"images": images})[0], session.get_modelmeta().custom_metadata_map


def open_openvino(source: str) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]:
    """Return a function that runs an OpenVINO model, and the metadata of the ONNX file that it was made of."""
    import openvino

    model = openvino.Core().read_model(source)
    compiled = openvino.compile_model(model, "CPU")
    keys = [key for key in (CONFIG_KEY, META_KEY) if model.has_rt_info(["framework", key])]
    return lambda images: compiled([images])[0], {
        key: model.get_rt_info(["framework", key]).astype(str) for key in keys
    }


class ExportedModel(nn.Module):
    """An exported network with the pre- and post-processing of its codebase.

    Args:
        cfg (Config): Config of the model.
        run (Callable): Function from images (N, C, H, W), float32, BGR, from 0 to 255, to the network's output.
        dataset_meta (dict): Meta information of the data set that the model was trained on.
    """

    def __init__(self, cfg: Config, run: Callable[[np.ndarray], np.ndarray], dataset_meta: dict) -> None:
        super().__init__()
        self.cfg, self.run, self.dataset_meta = cfg.model, run, dataset_meta
        self.postprocess = {
            "mmpretrain": self.classify, "mmseg": self.segment, "mmpose": self.estimate_pose,
        }[cfg.default_scope]  # fmt: skip
        if cfg.default_scope == "mmpose":
            from mmpose.registry import KEYPOINT_CODECS

            self.decoder = KEYPOINT_CODECS.build(self.cfg.head.decoder)

    def test_step(self, data: dict) -> list:
        """Predict on a batch of images of one size, as the models of the codebases do."""
        images = torch.stack(list(data["inputs"])).float().numpy()
        return self.postprocess(torch.from_numpy(self.run(images)), data["data_samples"])

    def classify(self, scores: Tensor, samples: list) -> list:
        """Add class scores (N, classes) to data samples."""
        return [one.set_pred_score(row).set_pred_label(row.argmax()) for row, one in zip(scores, samples, strict=True)]

    def segment(self, logits: Tensor, samples: list) -> list:
        """Add logits (N, classes, H, W) to data samples, in the size of the original images."""
        from mmseg.models.segmentors.base import BaseSegmentor

        head = self.cfg.decode_head
        threshold = head.get("threshold") or 0.3  # mmseg's default
        owner = SimpleNamespace(
            align_corners=head.get("align_corners", False), decode_head=SimpleNamespace(threshold=threshold)
        )
        return BaseSegmentor.postprocess_result(owner, logits, samples)

    def estimate_pose(self, heatmaps: Tensor, samples: list) -> list:
        """Add the keypoints of heatmaps (N, K, h, w) to data samples, in pixels of the original images."""
        from mmpose.models.heads.base_head import BaseHead
        from mmpose.models.pose_estimators import TopdownPoseEstimator

        instances = BaseHead.decode(SimpleNamespace(decoder=self.decoder), heatmaps)
        owner = SimpleNamespace(test_cfg=self.cfg.get("test_cfg") or {})
        return TopdownPoseEstimator.add_pred_to_datasample(owner, instances, None, samples)
