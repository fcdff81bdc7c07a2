"""Load VAN weights of any layout into a backbone or a whole model."""

import logging
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from van_mm.checkpoints.io import MODEL_ZOO_PREFIX, read_checkpoint
from van_mm.checkpoints.key_maps import (
    NO_VAN_WEIGHTS,
    WRAPPER_PREFIX,
    adapt_input_channels,
    find_mismatches,
    find_nonfinite,
    find_nonfinite_buffers,
    format_keys,
    get_state_dict,
    guess_attention,
    rename_model_keys,
    split_state_dict,
)
from van_mm.models.backbones.van import ARCH_SETTINGS, VAN, format_arch
from van_mm.utils.errors import UserError, WeightsError


def rename_keys_in_parent(parent: nn.Module, name: str, child: nn.Module) -> None:
    """Give a module that gets a VAN as its child the pre-hook :func:`~van_mm.checkpoints.key_maps.rename_model_keys`.

    A VAN renames the keys below its own prefix itself, but ``load_state_dict`` never shows it keys without that prefix,
    which the files of the authors and of Hugging Face have. Only the parent sees those.
    """
    if isinstance(child, VAN):
        parent._register_load_state_dict_pre_hook(partial(rename_model_keys, name), with_module=True)


register_module_module_registration_hook(rename_keys_in_parent)


def guess_arch(backbone: dict[str, Tensor]) -> str | None:
    """Return the VAN size, such as ``'b0'``, with the widths and depths of a state dict, or None.

    Args:
        backbone (dict): State dict of a backbone under official names.
    """
    matches = match_archs(backbone)
    attention = guess_attention(backbone)
    return next((n for n in matches if ARCH_SETTINGS[n].get("lka_cfg", {"type": "LKA"})["type"] == attention), None)


def match_archs(backbone: dict[str, Tensor]) -> list[str]:
    """Return the sizes with the widths and depths of a state dict, whatever their attention module is."""
    depths = [len({k.split(".")[1] for k in backbone if k.startswith(f"block{i}.")}) for i in range(1, 5)]
    widths = [len(backbone.get(f"norm{i}.weight", ())) for i in range(1, 5)]
    return [n for n, a in ARCH_SETTINGS.items() if a["embed_dims"] == widths and a["depths"] == depths]


def describe_backbone(backbone: dict[str, Tensor]) -> str | None:
    """Return what a state dict is of, such as ``'VAN-B0'``, ``'LSKNet-T'`` or ``'VAN-B0 with LSKA'``, or None."""
    if arch := guess_arch(backbone):
        return format_arch(arch)
    matches = match_archs(backbone)
    return f"{format_arch(matches[0])} with {guess_attention(backbone)}" if matches else None


def format_backbone(row: dict) -> str:
    """Return the backbone of a row of :data:`~van_mm.checkpoints.io.MODEL_ZOO`, such as ``'VAN-B0, LSKA'``."""
    return ", ".join([format_arch(row["arch"]), *filter(None, [row.get("lka")])])


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers for distributed training and test-time augmentation."""
    model = model.module if is_model_wrapper(model) else model
    return model.module if isinstance(model, BaseTTAModel) else model


def translate_state_dict(model: nn.Module, checkpoint: dict) -> dict[str, Tensor]:
    """Return a checkpoint's weights under the names of a VAN or of a model with a VAN.

    The backbone has to match in every key. The rest of the checkpoint is renamed, but not compared with the model.

    Args:
        model (nn.Module): A VAN, or a model whose ``backbone`` is one.
        checkpoint (dict): A checkpoint in any layout, as read from a file.

    Returns:
        dict: The weights of the backbone. For a model, also all other weights of the checkpoint.

    Raises:
        WeightsError: If the weights are not a VAN's, are of another architecture, or are not finite.
    """
    backbone, rest = split_state_dict(get_state_dict(checkpoint))
    if not backbone:
        raise WeightsError(NO_VAN_WEIGHTS)
    van = get_van(model)
    if van is None:
        raise WeightsError(f"{type(model).__name__} has no VAN backbone to load into")
    own = van.state_dict()
    problems = find_mismatches(own, backbone)
    if problems:
        theirs, ours = describe_backbone(backbone), describe_backbone(own)
        cause = f"these are {theirs} weights, the model is " if theirs and theirs != ours else ""
        cause += (ours or "a VAN of its own widths and depths") if cause else ""
        raise WeightsError(
            "; ".join([cause] * bool(cause) + [f"of {len(own)} keys of the backbone, {problems[0]}"] + problems[1:])
        )
    return backbone if van is model else {f"backbone.{key}": value for key, value in backbone.items()} | rest


def get_van(model: nn.Module) -> VAN | None:
    """Return the VAN that a model is, or that is its ``backbone``; None if there is none."""
    van = model if isinstance(model, VAN) else getattr(model, "backbone", None)
    return van if isinstance(van, VAN) else None


def match_state_dict(model: nn.Module, checkpoint: dict, report: bool = True) -> dict[str, Tensor]:
    """Return the weights of a checkpoint that fit a model, and report what is left out in one message.

    The checkpoint may be of a related model: of another task, with other heads, for another number of classes or input
    channels. Weights fit if they have the name and shape of the model's. A VAN has to fit in every key, except that its
    first convolution is adapted to the model's input channels.

    Args:
        model (nn.Module): A VAN, or any model.
        checkpoint (dict): A checkpoint in any layout, as read from a file.
        report (bool): Print what is adapted and left out. Defaults to True.

    Returns:
        dict: A state dict of all or part of ``model``.

    Raises:
        WeightsError: If the backbone does not fit, if nothing fits, or if weights are not finite.
    """
    model = unwrap_model(model)
    given = get_state_dict(checkpoint)
    van = get_van(model)
    if van is None:
        weights = {WRAPPER_PREFIX.sub("", key): value for key, value in given.items()}
    else:
        backbone, rest = split_state_dict(given)
        adapted = adapt_input_channels(backbone, van.state_dict())
        if adapted and report:
            print_log(adapted, "current", level=logging.WARNING)
        weights = translate_state_dict(model, backbone | rest)
        if van is model:
            return weights
    trial = TrialLoading(model, weights, getattr(given, "_metadata", {}))
    for part in ("backbone.", ""):
        if trial.has_part(part) and not any(key.startswith(part) for key in trial.fitting):
            where = "the backbone of this" if part else "this"
            raise WeightsError(f"none of its {len(weights)} weights fits {where} {type(model).__name__}")
    masks = find_nonfinite_buffers(model)
    if bad := [key for key in find_nonfinite(trial.fitting) if key not in masks]:
        raise WeightsError(f"{len(bad)} weights have NaN or infinite values ({format_keys(bad)})")
    # The file of a backbone, with a classifier or without, says nothing about the heads of a detector.
    is_related = any(not key.startswith(("backbone.", "head.fc.")) for key in weights) or "head.fc.weight" in trial.own
    if report and is_related and (left_out := trial.describe_left_out()):
        loaded = f"loaded {len(trial.fitting)} of the model's {len(trial.own)} weights"
        print_log(f"{loaded}; {left_out}", "current", level=logging.WARNING)
    return trial.fitting


class TrialLoading:
    """Find out which weights fit a model by loading them into a copy without data.

    The copy runs the hooks and overrides by which modules rename old weights, such as those of MMDetection's detectors.

    Args:
        model (nn.Module): It stays as it is.
        weights (dict): The weights to try.
        metadata (dict): Versions of modules by name, which PyTorch keeps in a state dict.

    Attributes:
        own (dict): State dict of the copy.
        fitting (dict): The weights that fit, under the model's names.
        other_shape (list[str]): Names of weights of another shape, with both shapes.
        unknown (list[str]): Names of weights that the model does not have.
        missing (list[str]): Names of the model's weights that were not given.
    """

    def __init__(self, model: nn.Module, weights: dict[str, Tensor], metadata: dict) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        copies = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
        for tensor in model.parameters():
            copies[id(tensor)] = nn.Parameter(copies[id(tensor)], tensor.requires_grad)
        copy = deepcopy(model, copies)
        self.own, self.metadata = copy.state_dict(), metadata
        self.fitting, self.other_shape, self.unknown, self.missing = {}, [], [], []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            self._load(copy, dict(weights), "")

    def _load(self, module: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
        """Load weights into a module and its children, as mmengine does."""
        version = self.metadata.get(prefix[:-1], {})
        counters = {f"{prefix}num_batches_tracked"} - weights.keys()  # BatchNorm adds it to files of old versions
        module._load_from_state_dict(weights, prefix, version, True, self.missing, self.unknown, [])
        for name in (*module._parameters, *module._buffers):
            key = prefix + name
            if key in weights and key in self.own and key not in counters:
                if weights[key].shape == self.own[key].shape:
                    self.fitting[key] = weights[key]
                else:
                    self.other_shape.append(f"{key} {tuple(weights[key].shape)} for {tuple(self.own[key].shape)}")
        for name, child in module._modules.items():  # not named_children(), which names a shared child only once
            if child is None:
                continue
            below = f"{prefix}{name}."
            self._load(child, {key: value for key, value in weights.items() if key.startswith(below)}, below)

    def has_part(self, prefix: str) -> bool:
        """Whether the model has weights whose names start with ``prefix``."""
        return any(key.startswith(prefix) for key in self.own)

    def describe_left_out(self) -> str:
        """Return what is not loaded and what of the model keeps its initial values, with counts."""
        phrases = {
            "left out for another shape": self.other_shape,
            "left out as no part of this model": self.unknown,
            "not in the file and left as initialized": [
                key for key in self.missing if not key.endswith("num_batches_tracked")
            ],
        }
        return "; ".join(f"{len(keys)} {phrase} ({format_keys(keys)})" for phrase, keys in phrases.items() if keys)


def load_van_weights(model: nn.Module, source: str | Path) -> None:
    """Load published VAN weights, in any layout, into a VAN or into a model with a VAN.

    Heads that do not fit keep their values, see :func:`match_state_dict`.

    Args:
        model (nn.Module): A VAN, or a classifier, detector, segmentor or pose estimator whose ``backbone`` is one.
        source (str | Path): A file, a URL, or a name such as ``van_mm://b2_in1k`` (``python -m van_mm.checkpoints``
            lists them).

    Raises:
        WeightsError: If the source cannot be downloaded or read, or does not match. The model then stays as it was.

    Example:
        >>> model = van_mm.VAN(arch="b2")
        >>> van_mm.load_van_weights(model, "van_mm://b2_in1k")
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 224))]
        [(1, 64, 56, 56), (1, 128, 28, 28), (1, 320, 14, 14), (1, 512, 7, 7)]
    """
    try:
        if get_van(model) is None:
            raise WeightsError(f"{type(model).__name__} has no VAN backbone to load into")
        weights = match_state_dict(model, read_checkpoint(source))
    except WeightsError as error:
        raise WeightsError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
    model.load_state_dict(weights, strict=False)  # only heads can be missing: the backbone was matched


def check_related_weights(model: nn.Module, source: str) -> None:
    """Raise if a ``load_from`` checkpoint has nothing for a model, without loading it.

    Checkpoints with schemes of mmengine's own, such as ``torchvision://``, are not read.

    Raises:
        WeightsError: If the checkpoint cannot be read or its backbone does not fit. The message names the source.
    """
    if "://" in source and not source.startswith(("http://", "https://", MODEL_ZOO_PREFIX)):
        return
    try:
        match_state_dict(model, read_checkpoint(source), report=False)  # the report comes with the loading
    except WeightsError as error:
        raise WeightsError(f"load_from={source} does not fit this config's model: {error}") from error


def match_complete_state_dict(model: nn.Module, checkpoint: dict, source: str) -> dict[str, Tensor]:
    """Return the weights of a checkpoint of exactly this model, heads included, as testing and resuming need it.

    Args:
        model (nn.Module): Any model, wrapped or not.
        checkpoint (dict): As read from a file.
        source (str): Where it was read from, for the message.

    Returns:
        dict[str, Tensor]: The weights under the model's names.

    Raises:
        UserError: If keys are missing, unexpected or of another shape. The message counts and names them.
    """
    model = unwrap_model(model)
    own = model.state_dict()
    is_van = get_van(model) is not None
    try:
        weights = translate_state_dict(model, checkpoint) if is_van else get_state_dict(checkpoint)
    except WeightsError as error:
        raise UserError(f"{source} is not of this config's model: {error}") from error
    problems = find_mismatches(own, weights)
    if problems:
        size = None if is_van else guess_arch(split_state_dict(weights)[0])
        hint = f". It has {format_arch(size)}: add --backbone {size}" if size else ""
        raise UserError(f"{source} is not of this config's model: of {len(own)} keys, {'; '.join(problems)}{hint}")
    return weights
