"""Load VAN weights of any layout into a backbone or a whole model."""

from functools import partial
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from van_mm.checkpoints.io import read_checkpoint
from van_mm.checkpoints.key_maps import (
    NO_VAN_WEIGHTS,
    find_mismatches,
    get_state_dict,
    rename_model_keys,
    split_state_dict,
)
from van_mm.models.backbones.van import ARCH_SETTINGS, VAN
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
    depths = [len({k.split(".")[1] for k in backbone if k.startswith(f"block{i}.")}) for i in range(1, 5)]
    widths = [len(backbone.get(f"norm{i}.weight", ())) for i in range(1, 5)]
    return next((n for n, a in ARCH_SETTINGS.items() if a["embed_dims"] == widths and a["depths"] == depths), None)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers for distributed training and test-time augmentation."""
    model = model.module if is_model_wrapper(model) else model
    return model.module if isinstance(model, BaseTTAModel) else model


def match_state_dict(model: nn.Module, checkpoint: dict) -> dict[str, Tensor]:
    """Return a checkpoint's weights under the names of a VAN or of a model with a VAN.

    The backbone has to match in every key. The rest of the model takes its weights from the checkpoint if that is of
    the same kind of model, and keeps its own otherwise. A classifier for another number of classes is left out with a
    warning.

    Args:
        model (nn.Module): A VAN, or a model whose ``backbone`` is one.
        checkpoint (dict): A checkpoint in any layout, as read from a file.

    Returns:
        dict: A state dict of all or part of ``model``.

    Raises:
        WeightsError: If the weights are not a VAN's, are of another architecture, or are not finite.
    """
    backbone, rest = split_state_dict(get_state_dict(checkpoint))
    if not backbone:
        raise WeightsError(NO_VAN_WEIGHTS)
    van = model if isinstance(model, VAN) else getattr(model, "backbone", None)
    if not isinstance(van, VAN):
        raise WeightsError(f"{type(model).__name__} has no VAN backbone to load into")
    own = van.state_dict()
    problems = find_mismatches(own, backbone)
    if problems:
        theirs, ours = guess_arch(backbone), guess_arch(own)
        cause = f"these are VAN-{theirs.upper()} weights, the model is " if theirs and theirs != ours else ""
        cause += (f"VAN-{ours.upper()}" if ours else "a VAN of its own widths and depths") if cause else ""
        raise WeightsError(
            "; ".join([cause] * bool(cause) + [f"of {len(own)} keys of the backbone, {problems[0]}"] + problems[1:])
        )
    if van is model:
        return backbone

    matched = {f"backbone.{key}": value for key, value in backbone.items()}
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.")}
    if own.keys() & rest.keys():
        other_classes = [
            k for k in own if k in rest and own[k].shape[1:] == rest[k].shape[1:] and own[k].shape != rest[k].shape
        ]
        if other_classes:
            print_log(f"left out, for another number of classes: {', '.join(other_classes)}", "current", level=30)
        problems = find_mismatches(
            {k: v for k, v in own.items() if k not in other_classes},
            {k: v for k, v in rest.items() if k not in other_classes},
        )
        if problems:
            raise WeightsError(f"besides the backbone, {'; '.join(problems)}")
        matched |= {key: value for key, value in rest.items() if key not in other_classes}
    return matched


def load_van_weights(model: nn.Module, source: str | Path) -> None:
    """Load published VAN weights, in any layout, into a VAN or into a model with a VAN.

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
        weights = match_state_dict(model, read_checkpoint(source))
    except WeightsError as error:
        raise WeightsError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
    model.load_state_dict(weights, strict=False)  # only heads of another task can be missing: the rest was matched


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
    is_van = isinstance(getattr(model, "backbone", None), VAN)
    try:
        weights = match_state_dict(model, checkpoint) if is_van else get_state_dict(checkpoint)
    except WeightsError as error:
        raise UserError(f"{source} is not of this config's model: {error}") from error
    problems = find_mismatches(own, weights)
    if problems:
        size = None if is_van else guess_arch(split_state_dict(weights)[0])
        hint = f". It has a VAN-{size.upper()}: add --backbone {size}" if size else ""
        raise UserError(f"{source} is not of this config's model: of {len(own)} keys, {'; '.join(problems)}{hint}")
    return weights
