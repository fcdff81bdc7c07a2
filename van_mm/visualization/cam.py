"""Compute class activation maps of classifiers with the grad-cam library (figure 6 of the paper).

The paper uses Grad-CAM (arXiv 1610.02391). Its map for a class with logit y is max(sum_c w_c A_c, 0), where A_c is
channel c of a layer's output and the weight w_c is the mean of d y / d A_c over all positions.
"""

from difflib import get_close_matches

import numpy as np
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from van_mm.utils.errors import UserError

# The methods by their lower-case names, 'gradcam' to 'ablationcam'. Figure 6 uses Grad-CAM.
CAM_METHODS = {
    name.lower(): getattr(library, name)
    for name in (
        "GradCAM",
        "GradCAMPlusPlus",
        "XGradCAM",
        "LayerCAM",
        "HiResCAM",
        "EigenCAM",
        "EigenGradCAM",
        "ScoreCAM",
        "AblationCAM",
    )  # fmt: skip
}


class ClassifierLogits(nn.Module):
    """A classifier of mmpretrain as a module that maps images to logits.

    Args:
        model (nn.Module): An ``ImageClassifier``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, H, W) to logits (N, classes)."""
        return self.model(images, mode="tensor")


def find_target_layer(model: nn.Module, name: str | None, size: tuple[int, int], channels: int = 3) -> nn.Module:
    """Return the layer whose output is weighted.

    Args:
        model (nn.Module): The classifier.
        name (str, optional): Name of a module. Defaults to the last module of the backbone that returns a feature map
            and is no norm. The output of a final LayerNorm has equal length at all positions, which makes maps flat.
        size (tuple[int, int]): Height and width of the images.
        channels (int): Channels of the images. Defaults to 3.

    Raises:
        UserError: If no layer has this name, or no module of the backbone returns a feature map.
    """
    layers = dict(model.named_modules())
    if name is not None:
        if name not in layers or not name:
            suggestions = get_close_matches(name, layers, n=5, cutoff=0.3) or list(layers)[1:6]
            raise UserError(f"no layer '{name}'. Did you mean {', '.join(suggestions)}?")
        return layers[name]
    maps, handles = [], []
    for module in model.backbone.modules():
        if module is not model.backbone and "norm" not in type(module).__name__.lower():

            def record(module, inputs, output):
                if isinstance(output, Tensor) and output.dim() in (3, 4) and output[0, 0].numel() > 1:
                    maps.append(module)

            handles.append(module.register_forward_hook(record))
    with torch.no_grad():
        model.backbone(torch.zeros(1, channels, *size, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    if not maps:
        raise UserError("this backbone has no layer that returns a feature map. Name a layer with --target-layer")
    return maps[-1]


def make_reshape_transform(size: tuple[int, int]):
    """Return a function that converts a layer's output to (N, C, h, w).

    The function accepts (N, C, h, w), (N, h, w, C), and tokens (N, L, C). Tokens in excess of h * w are expected at the
    beginning, such as a class token, and are dropped.

    Args:
        size (tuple[int, int]): Height and width of the images, for the aspect ratio of the tokens.
    """

    def reshape(output: Tensor) -> Tensor:
        if output.dim() == 4:
            channels_last = output.shape[1] == output.shape[2] and output.shape[3] > output.shape[1]
            return output.permute(0, 3, 1, 2) if channels_last and output.shape[2] != output.shape[3] else output
        n, tokens, channels = output.shape
        height = int((tokens * size[0] / size[1]) ** 0.5)
        width = tokens // max(height, 1)
        return output[:, tokens - height * width :].transpose(1, 2).reshape(n, channels, height, width)

    return reshape


def parse_target_class(text: str, classes: list[str] | None, count: int) -> int:
    """Return the index of a class.

    Args:
        text (str): Name of the class (any of its synonyms, in any case) or its index.
        classes (list[str], optional): Names of the classes, with synonyms separated by commas.
        count (int): Number of classes.

    Raises:
        UserError: If there is no such class.
    """
    if text.lstrip("-").isdigit():
        if not 0 <= int(text) < count:
            raise UserError(f"--target {text}: classes are 0 to {count - 1}")
        return int(text)
    names = {}
    for index, synonyms in enumerate(classes or ()):
        for name in (str(synonyms), *str(synonyms).split(",")):
            names.setdefault(name.strip().lower(), index)
    if text.lower() not in names:
        suggestions = get_close_matches(text.lower(), names, n=5, cutoff=0.5)
        hint = f". Did you mean {', '.join(suggestions)}?" if suggestions else ""
        raise UserError(f"--target {text}: no such class{hint}")
    return names[text.lower()]


def compute_cam(
    network: ClassifierLogits,
    images: Tensor,
    targets: list[int] | None = None,
    layer: str | None = None,
    method: str = "gradcam",
) -> tuple[np.ndarray, np.ndarray]:
    """Return maps of the evidence for a class in each image.

    Args:
        network (ClassifierLogits): The classifier, in eval mode.
        images (Tensor): Images (N, 3, H, W), normalized.
        targets (list[int], optional): Index of a class for each image. Defaults to the predicted classes.
        layer (str, optional): Name of the layer whose output is weighted. Defaults to the last layer of the backbone
            before its final norm, see :func:`find_target_layer`.
        method (str): A key of ``CAM_METHODS``. Defaults to 'gradcam'.

    Returns:
        tuple[np.ndarray, np.ndarray]: Maps (N, H, W) between 0 and 1, and probabilities (N, classes).

    Raises:
        UserError: If there is no such layer, or its output is no feature map with a gradient.

    Example:
        >>> model = build_random_model(van_mm.get_config("cls/van_b0_in1k"))
        >>> maps, probabilities = compute_cam(ClassifierLogits(model), torch.rand(1, 3, 224, 224))
        >>> maps.shape, probabilities.shape
        ((1, 224, 224), (1, 1000))
    """
    size = tuple(images.shape[-2:])
    layers = [find_target_layer(network.model, layer, size, images.shape[1])]
    with CAM_METHODS[method](
        model=network, target_layers=layers, reshape_transform=make_reshape_transform(size)
    ) as cam:
        class_targets = None if targets is None else [ClassifierOutputTarget(target) for target in targets]
        try:
            maps = cam(images, targets=class_targets)
        except (ValueError, IndexError, RuntimeError, AttributeError) as error:
            raise UserError(f"layer {layer or 'chosen by default'} gives no map to weight: {error}") from error
        return maps, cam.outputs.detach().softmax(1).cpu().numpy()
