"""Class activation maps of classifiers (figure 6), by the grad-cam library."""

from difflib import get_close_matches

import numpy as np
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from van_mm.errors import UserError

METHODS = {
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


class Network(nn.Module):
    """A classifier of mmpretrain as a function from normalised images to logits.

    Args:
        model (nn.Module): An ``ImageClassifier``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes)."""
        return self.model(images, mode="tensor")


def target_layer(model: nn.Module, name: str | None, size: tuple[int, int]) -> nn.Module:
    """The layer whose activations are weighed.

    Args:
        model (nn.Module): The classifier.
        name (str, optional): Of a module of it. By default the last of its backbone that gives a map of features, final
            norms left out: they make all positions equally long, and the map flat.
        size (tuple[int, int]): Height and width of the images.

    Raises:
        UserError: If there is no such layer.
    """
    layers = dict(model.named_modules())
    if name is not None:
        if name not in layers or not name:
            near = get_close_matches(name, layers, n=5, cutoff=0.3)
            raise UserError(f"no layer '{name}'. Did you mean {', '.join(near or list(layers)[1:6])}?")
        return layers[name]
    maps, handles = [], []
    for module in model.backbone.modules():
        if module is not model.backbone and "norm" not in type(module).__name__.lower():

            def keep(module, inputs, output):
                if isinstance(output, Tensor) and output.dim() in (3, 4) and output[0, 0].numel() > 1:
                    maps.append(module)

            handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model.backbone(torch.zeros(1, 3, *size, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    if not maps:
        raise UserError("this backbone gives no map of features; name a layer with --target-layer")
    return maps[-1]


def as_map(size: tuple[int, int]):
    """A function that makes (N, C, h, w) of a layer's output for images of ``size``: of (N, h, w, C) and of tokens
    (N, L, C), whose first ones may stand for the whole image."""

    def reshape(output: Tensor) -> Tensor:
        if output.dim() == 4:
            last = output.shape[1] == output.shape[2] and output.shape[3] > output.shape[1]
            return output.permute(0, 3, 1, 2) if last and output.shape[2] != output.shape[3] else output
        n, tokens, channels = output.shape
        height = int((tokens * size[0] / size[1]) ** 0.5)
        width = tokens // max(height, 1)
        return output[:, tokens - height * width :].transpose(1, 2).reshape(n, channels, height, width)

    return reshape


def find_class(text: str, classes: list[str] | None, count: int) -> int:
    """The index of a class that is given by its name or number.

    Raises:
        UserError: If there is none.
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
        near = get_close_matches(text.lower(), names, n=5, cutoff=0.5)
        raise UserError(f"--target {text}: no such class" + (f". Did you mean {', '.join(near)}?" if near else ""))
    return names[text.lower()]


def activation_map(
    network: Network,
    images: Tensor,
    targets: list[int] | None = None,
    layer: str | None = None,
    method: str = "gradcam",
) -> tuple[np.ndarray, np.ndarray]:
    """Where in each image the evidence for a class is.

    Args:
        network (Network): Of the classifier, in eval mode.
        images (Tensor): (N, 3, H, W), normalised.
        targets (list[int], optional): A class for each. By default the one predicted.
        layer (str, optional): As for :func:`target_layer`.
        method (str): Key of ``METHODS``. Defaults to 'gradcam'.

    Returns:
        tuple[np.ndarray, np.ndarray]: Maps (N, H, W) from 0 to 1, and probabilities (N, classes).

    Raises:
        UserError: On an unknown layer, or one that gives no map with a gradient.
    """
    size = tuple(images.shape[-2:])
    layers = [target_layer(network.model, layer, size)]
    with METHODS[method](model=network, target_layers=layers, reshape_transform=as_map(size)) as cam:
        chosen = None if targets is None else [ClassifierOutputTarget(target) for target in targets]
        try:
            maps = cam(images, targets=chosen)
        except (ValueError, IndexError, RuntimeError, AttributeError) as error:
            raise UserError(f"layer {layer or 'chosen by itself'} gives no map to weigh: {error}") from error
        return maps, cam.outputs.detach().softmax(1).cpu().numpy()
