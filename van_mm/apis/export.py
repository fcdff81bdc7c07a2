"""Export the network of a trained model to ONNX: from images to scores, logits, heatmaps or feature maps."""

import copy
import json
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from van_mm.apis.build import get_input_channels
from van_mm.checkpoints.plain_types import to_plain_types
from van_mm.models import fold
from van_mm.visualization.class_names import list_names
from van_mm.visualization.drawing import get_class_name
from van_mm.visualization.model_inputs import converts_to_rgb

# Keys of an exported file's metadata, which van_mm.load reads: the config, and the data set's meta information, both as
# Python literals, because JSON has no keys that are numbers.
CONFIG_KEY, META_KEY = "van_mm_config", "van_mm_dataset_meta"
CLASSES_KEY = "names"  # of the classes, as JSON, for other programs
OUTPUT_NAMES = {"mmpretrain": "scores", "mmseg": "logits", "mmpose": "heatmaps", "mmdet": "level"}


class DeployedModel(nn.Module):
    """A model as a function from images to tensors, with the normalization of images included.

    Args:
        model (nn.Module): Model built from a config. It is copied, and the copy is in eval mode.
        codebase (str): ``default_scope`` of the config: ``'mmpretrain'``, ``'mmseg'``, ``'mmpose'`` or ``'mmdet'``.
        folded (bool): Fold BatchNorm and LayerScale of the copy by :func:`van_mm.fold`. Defaults to True.
    """

    def __init__(self, model: nn.Module, codebase: str, folded: bool = True) -> None:
        super().__init__()
        self.codebase = codebase
        preprocessor = model.data_preprocessor
        self.to_rgb, self.channels = converts_to_rgb(preprocessor), get_input_channels(model)
        self.register_buffer("mean", preprocessor.mean.float().view(-1, 1, 1).clone())
        self.register_buffer("std", preprocessor.std.float().view(-1, 1, 1).clone())
        self.model = copy.deepcopy(model).eval()
        if folded:
            fold(self.model)
        make_size_dynamic(self.model)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the outputs before any post-processing that depends on their values.

        Args:
            images (Tensor): Images (N, C, H, W), BGR, from 0 to 255, as OpenCV reads them. C is 3 for most models.

        Returns:
            Tensor | tuple[Tensor]: By codebase:

            - mmpretrain: class scores (N, classes), which sum to 1;
            - mmseg: logits (N, classes, H, W);
            - mmpose: heatmaps (N, keypoints, H / 4, W / 4);
            - mmdet: a tuple of the neck's feature maps (N, C, H / stride, W / stride).
        """
        x = images.flip(1) if self.to_rgb and self.channels == 3 else images
        x = (x - self.mean) / self.std
        if self.codebase == "mmdet":
            return tuple(self.model.extract_feat(x))
        if self.codebase == "mmpretrain":
            return self.model(x, mode="tensor").softmax(1)
        out = self.model(x, None, mode="tensor")
        if self.codebase == "mmseg":
            corners = self.model.decode_head.align_corners
            out = F.interpolate(out, size=images.shape[2:], mode="bilinear", align_corners=corners)
        return out


class AnySizePool(nn.Module):
    """``AdaptiveAvgPool2d`` by two matrix products, because ONNX has no adaptive pooling for images of any size.

    Args:
        output_size (int | tuple[int, int]): Height and width of the output.
    """

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.bins = output_size if isinstance(output_size, tuple) else (output_size, output_size)

    def make_pooling_matrix(self, x: Tensor, axis: int) -> Tensor:
        """Return the matrix (bins, size) that averages the pixels of ``x`` along one axis.

        As in PyTorch, bin i of n averages the half-open range [floor(i size / n), ceil((i + 1) size / n)).
        """
        size, bins = x.shape[axis], self.bins[axis]
        low = torch.arange(bins, device=x.device)[:, None] * size
        position = torch.arange(size, device=x.device) * bins  # scaled by bins, so that all comparisons are of integers
        inside = ((position > low - bins) & (position < low + size)).to(x.dtype)
        return inside / inside.sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Pool feature maps (N, C, H, W) to (N, C, *output_size)."""
        return self.make_pooling_matrix(x, -2) @ x @ self.make_pooling_matrix(x, -1).t()


def make_size_dynamic(model: nn.Module) -> None:
    """Replace, in place, the modules of a model whose trace works for a single image size only."""
    for name, child in model.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            setattr(model, name, AnySizePool(child.output_size))
        elif type(child).__name__ == "Upsample" and type(child).__module__.startswith("mmseg"):  # calls int() on sizes
            setattr(model, name, nn.Upsample(child.size, child.scale_factor, child.mode, child.align_corners))
        else:
            make_size_dynamic(child)


def export_onnx(
    model: nn.Module, codebase: str, file: str | Path, size: tuple[int, int], folded: bool = True
) -> DeployedModel:
    """Write a model to an ONNX file whose batch size, height and width are dynamic.

    The input is ``images``. The output is ``scores`` for mmpretrain, ``logits`` for mmseg, ``heatmaps`` for mmpose, and
    ``level0``, ``level1``, ... for mmdet, as :meth:`DeployedModel.forward` returns them. Packages needed: onnx.

    Args:
        model (nn.Module): Model with its weights, from :func:`van_mm.apis.build.build_model`.
        codebase (str): ``default_scope`` of its config.
        file (str | Path): ONNX file to write.
        size (tuple[int, int]): Height and width of the images for tracing.
        folded (bool): Fold BatchNorm and LayerScale into the convolutions first. Defaults to True.

    Returns:
        DeployedModel: The PyTorch module that was exported.

    Example:
        >>> import torch
        >>> from van_mm import get_config
        >>> from van_mm.apis.build import build_random_model
        >>> from van_mm.apis.export import export_onnx, open_onnx_session
        >>> cfg = get_config("cls/van_b0_in1k")
        >>> deployed = export_onnx(build_random_model(cfg), cfg.default_scope, "van_b0.onnx", size=(224, 224))
        >>> images = 255 * torch.rand(2, 3, 96, 128)  # other sizes work too
        >>> deployed(images).shape
        torch.Size([2, 1000])
        >>> (scores,) = open_onnx_session("van_b0.onnx").run(["scores"], {"images": images.numpy()})
        >>> scores.shape
        (2, 1000)
    """
    deployed = DeployedModel(model, codebase, folded).eval()
    images = torch.rand(2, deployed.channels, *size) * 255
    with torch.no_grad():
        outs = deployed(images)
    names = (
        [OUTPUT_NAMES[codebase]]
        if isinstance(outs, Tensor)
        else [f"{OUTPUT_NAMES[codebase]}{i}" for i in range(len(outs))]
    )
    axes = {name: {0: "batch"} for name in names} if codebase == "mmpretrain" else {
        name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in names}  # fmt: skip
    axes["images"] = {0: "batch", 2: "height", 3: "width"}
    trace_to_onnx(deployed, images, file, output_names=names, dynamic_axes=axes)
    return deployed


def write_metadata(file: str | Path, cfg: Config, dataset_meta: dict) -> None:
    """Write what :func:`van_mm.load` needs of a model into its ONNX file, and the names of the classes.

    Args:
        file (str | Path): ONNX file to change.
        cfg (Config): Config of the model.
        dataset_meta (dict): Meta information of the data set that it was trained on.
    """
    import onnx

    model, classes = onnx.load(file), list_names(dataset_meta.get("classes"))
    values = {
        CONFIG_KEY: Config(cfg._cfg_dict, format_python_code=False).pretty_text,
        META_KEY: repr(to_plain_types(dataset_meta)),
        CLASSES_KEY: json.dumps({label: get_class_name(classes, label) for label in range(len(classes))}),
    }
    onnx.helper.set_model_props(model, values)
    onnx.save(model, file)


def trace_to_onnx(module: nn.Module, images: Tensor, file: str | Path, **options) -> None:
    """Call ``torch.onnx.export`` with the tracing exporter, which supports dynamic image sizes.

    Args:
        module (nn.Module): Module with images as its only input.
        images (Tensor): Images (N, 3, H, W) for tracing.
        file (str | Path): ONNX file to write.
        **options: Arguments of ``torch.onnx.export``, such as ``output_names`` and ``dynamic_axes``.
    """
    if torch.__version__ >= "2.5":
        options["dynamo"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the deprecated exporter, and about each shape that becomes a constant
        torch.onnx.export(module, (images,), str(file), input_names=["images"], opset_version=17, **options)


def open_onnx_session(file: str | Path):
    """Open an ONNX file in onnxruntime.

    Args:
        file (str | Path): ONNX file.

    Returns:
        onnxruntime.InferenceSession: A session on the CPU with as many threads as PyTorch. The threads do not spin
        between calls, because spinning slows down PyTorch when both are compared.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def compute_deviations(deployed: DeployedModel, session, images: Tensor) -> list[float]:
    """Compare the outputs of onnxruntime with those of PyTorch.

    Args:
        deployed (DeployedModel): The exported module.
        session (onnxruntime.InferenceSession): Session from :func:`open_onnx_session` of the exported file.
        images (Tensor): Images (N, 3, H, W), BGR, from 0 to 255.

    Returns:
        list[float]: For each output the maximum absolute difference, divided by the maximum absolute value.
    """
    with torch.no_grad():
        expected = deployed(images)
    expected = [expected] if isinstance(expected, Tensor) else expected
    outs = session.run(None, {"images": images.numpy()})
    return [
        ((torch.from_numpy(out) - value).abs().max() / value.abs().max()).item()
        for out, value in zip(outs, expected, strict=True)
    ]
