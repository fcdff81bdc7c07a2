"""Export to ONNX of what a trained model computes between an image and its scores, logits, heat maps or features."""

import copy
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from van_mm.models import fold

OUTPUTS = {"mmpretrain": "scores", "mmseg": "logits", "mmpose": "heatmaps", "mmdet": "level"}


class Deployed(nn.Module):
    """A model as a function of images (N, 3, H, W), BGR from 0 to 255, as OpenCV reads them.

    Classifiers give class scores (N, classes), segmentors logits (N, classes, H, W), pose estimators heat maps
    (N, keypoints, H / 4, W / 4), detectors the feature maps behind their neck.

    Args:
        model (nn.Module): Built from a config; a copy of it is taken, in eval mode.
        codebase (str): ``'mmpretrain'``, ``'mmseg'``, ``'mmpose'`` or ``'mmdet'``.
        folded (bool): Fold the copy (:func:`van_mm.fold`). Defaults to True.
    """

    def __init__(self, model: nn.Module, codebase: str, folded: bool = True) -> None:
        super().__init__()
        self.codebase = codebase
        preprocessor = model.data_preprocessor
        names = ("to_rgb", "channel_conversion", "_channel_conversion")  # mmpretrain's, mmseg's, mmengine's
        self.to_rgb = any(getattr(preprocessor, name, False) for name in names)
        self.register_buffer("mean", preprocessor.mean.float().view(-1, 1, 1).clone())
        self.register_buffer("std", preprocessor.std.float().view(-1, 1, 1).clone())
        self.model = copy.deepcopy(model).eval()
        if folded:
            fold(self.model)
        make_dynamic(self.model)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = images.flip(1) if self.to_rgb else images
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
    """``AdaptiveAvgPool2d`` as two products with matrices of means, which ONNX can have for images of any size."""

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.bins = output_size if isinstance(output_size, tuple) else (output_size, output_size)

    def means(self, x: Tensor, axis: int) -> Tensor:
        """(bins, size) weights; bin i of n holds floor(i size / n) to ceil((i + 1) size / n)."""
        size, bins = x.shape[axis], self.bins[axis]
        low = torch.arange(bins, device=x.device)[:, None] * size
        at = torch.arange(size, device=x.device) * bins
        inside = ((at > low - bins) & (at < low + size)).to(x.dtype)
        return inside / inside.sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.means(x, -2) @ x @ self.means(x, -1).t()


def make_dynamic(model: nn.Module) -> None:
    """Replace the modules that fix the image's size when they are traced."""
    for name, child in model.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            setattr(model, name, AnySizePool(child.output_size))
        elif type(child).__name__ == "Upsample" and type(child).__module__.startswith("mmseg"):
            setattr(model, name, nn.Upsample(child.size, child.scale_factor, child.mode, child.align_corners))
        else:
            make_dynamic(child)


def export_onnx(
    model: nn.Module, codebase: str, file: str | Path, size: tuple[int, int], folded: bool = True
) -> Deployed:
    """Write a model as ONNX, with batch, height and width left open.

    Args:
        model (nn.Module): Built from a config, with its weights.
        codebase (str): Its default scope.
        file (str | Path): To write.
        size (tuple[int, int]): Height and width to trace at.
        folded (bool): Fold norms and LayerScale first. Defaults to True.

    Returns:
        Deployed: What was written, as a module.
    """
    deployed = Deployed(model, codebase, folded).eval()
    images = torch.rand(2, 3, *size) * 255
    with torch.no_grad():
        outs = deployed(images)
    names = [OUTPUTS[codebase]] if isinstance(outs, Tensor) else [f"{OUTPUTS[codebase]}{i}" for i in range(len(outs))]
    axes = {name: {0: "batch"} for name in names} if codebase == "mmpretrain" else {
        name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in names}  # fmt: skip
    axes["images"] = {0: "batch", 2: "height", 3: "width"}
    trace(deployed, images, file, output_names=names, dynamic_axes=axes)
    return deployed


def trace(module: nn.Module, images: Tensor, file: str | Path, **options) -> None:
    """``torch.onnx.export`` of a function of images, by the exporter that can leave their size open."""
    if torch.__version__ >= "2.5":
        options["dynamo"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the tracer is the older one, and each shape it takes for a constant
        torch.onnx.export(module, (images,), str(file), input_names=["images"], opset_version=17, **options)


def open_session(file: str | Path):
    """An onnxruntime session on the CPU, with as many threads as PyTorch, that leaves the cores alone between calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def deviations(deployed: Deployed, session, images: Tensor) -> list[float]:
    """For each output the greatest difference to onnxruntime's, as a share of the greatest value."""
    with torch.no_grad():
        expected = deployed(images)
    expected = [expected] if isinstance(expected, Tensor) else expected
    outs = session.run(None, {"images": images.numpy()})
    return [
        ((torch.from_numpy(out) - value).abs().max() / value.abs().max()).item()
        for out, value in zip(outs, expected, strict=True)
    ]
