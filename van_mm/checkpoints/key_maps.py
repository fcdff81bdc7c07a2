"""Names of VAN's parameters in every published layout, and how to translate them.

The layouts are the authors' release ("official", which this package uses too), mmpretrain's, Hugging Face's, those of
LSKNet's and LSKA's releases, and checkpoints of whole models, with or without the prefixes of wrappers.
:func:`split_state_dict` reads any of them, :func:`to_layout` writes one. :func:`rename_backbone_keys` and
:func:`rename_model_keys` are pre-hooks of ``load_state_dict``, so that mmengine's own loading accepts every layout.
"""

import logging
import math
import re
from collections.abc import Iterable

from mmengine.logging import print_log
from torch import Tensor
from torch.nn import Module

from van_mm.utils.errors import WeightsError

# Prefixes of a whole state dict, from DataParallel, torch.compile and averaged copies.
WRAPPER_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|ema_model\.|ema\.)+")
# Pairs of (pattern, official name): mmpretrain.models.VAN, and Hugging Face's transformers.models.van.
MMPRETRAIN_TO_OFFICIAL = [
    (r"^blocks(\d)\.", r"block\1."),
    (r"^(patch_embed\d)\.projection\.", r"\1.proj."),
    (r"\.DW_conv\.", ".conv0."),
    (r"\.DW_D_conv\.", ".conv_spatial."),
    (r"\.DW_conv_([hv])\.", r".conv0\1."),  # LSKA's detectors and segmentors
    (r"\.DW_D_conv_([hv])\.", r".conv_spatial_\1."),
    (r"\.mlp\.dwconv\.(weight|bias)$", r".mlp.dwconv.dwconv.\1"),
]
HUGGINGFACE_TO_OFFICIAL = [
    (r"^van\.", ""),
    (r"^encoder\.stages\.(\d)\.embeddings\.convolution\.", lambda m: f"patch_embed{int(m[1]) + 1}.proj."),
    (r"^encoder\.stages\.(\d)\.embeddings\.normalization\.", lambda m: f"patch_embed{int(m[1]) + 1}.norm."),
    (r"^encoder\.stages\.(\d)\.layers\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"^encoder\.stages\.(\d)\.normalization\.", lambda m: f"norm{int(m[1]) + 1}."),
    (r"\.pre_normomalization\.", ".norm1."),
    (r"\.post_normalization\.", ".norm2."),
    (r"\.attention\.pre_projection\.conv\.", ".attn.proj_1."),
    (r"\.attention\.post_projection\.", ".attn.proj_2."),
    (r"\.attention\.attention_layer\.attention\.depth_wise\.", ".attn.spatial_gating_unit.conv0."),
    (r"\.attention\.attention_layer\.attention\.depth_wise_dilated\.", ".attn.spatial_gating_unit.conv_spatial."),
    (r"\.attention\.attention_layer\.attention\.point_wise\.", ".attn.spatial_gating_unit.conv1."),
    (r"\.attention_scaling\.weight$", ".layer_scale_1"),
    (r"\.mlp_scaling\.weight$", ".layer_scale_2"),
    (r"\.mlp\.in_dense\.", ".mlp.fc1."),
    (r"\.mlp\.depth_wise\.", ".mlp.dwconv.dwconv."),
    (r"\.mlp\.out_dense\.", ".mlp.fc2."),
]
# A parameter that only this attention module has. LKA has none.
ATTENTION_KEYS = {"LSKA": ".conv0h.", "LSK": ".conv_squeeze.", "DeformableLKA": ".offset_net.", "MSCA": ".conv0_1."}
BACKBONE_KEY = re.compile(r"^(?:patch_embed|block|norm)\d+\.")
HEAD_KEY = re.compile(r"^(?:head|head\.fc|classifier)\.(weight|bias)$")  # official, MMLab, Hugging Face
UNUSED_KEY = re.compile(r"^(?:van\.)?layernorm\.")  # a norm of Hugging Face's VanModel that is never called
FIRST_CONV = "patch_embed1.proj.weight"
NO_VAN_WEIGHTS = "it holds no VAN weights: no key is a VAN's, in any of the known layouts"


def to_official_key(key: str) -> str:
    """Return the official name of a parameter of the backbone or the classifier; other keys stay as they are.

    Example:
        >>> to_official_key("van.encoder.stages.0.layers.2.mlp_scaling.weight")
        'block1.2.layer_scale_2'
    """
    key = key.removeprefix("backbone.")
    for pattern, name in HUGGINGFACE_TO_OFFICIAL + MMPRETRAIN_TO_OFFICIAL:
        key = re.sub(pattern, name, key)
    return HEAD_KEY.sub(r"head.fc.\1", key)


def guess_attention(keys: Iterable[str]) -> str:
    """Return the name of the attention module, such as ``'LSKA'``, to which official names of a backbone belong."""
    keys = list(keys)
    return next((name for name, part in ATTENTION_KEYS.items() if any(part in key for key in keys)), "LKA")


def split_state_dict(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict of any layout into the backbone and the rest.

    Args:
        state_dict (dict): Tensors by key, in any of the layouts, with or without the prefixes of wrappers.

    Returns:
        tuple[dict, dict]: The backbone under official names; everything else, a classifier under ``head.fc``.
    """
    backbone, rest = {}, {}
    for key, value in state_dict.items():
        key = WRAPPER_PREFIX.sub("", key)
        if UNUSED_KEY.match(key):
            continue
        name = to_official_key(key)
        (backbone if BACKBONE_KEY.match(name) else rest)[name] = value
    return backbone, rest


def get_state_dict(checkpoint: dict) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint, or the checkpoint itself if it is a state dict.

    Raises:
        WeightsError: If there is none.
    """
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise WeightsError("it holds no state dict")
    return checkpoint


def rename_backbone_keys(backbone: Module, state_dict: dict, prefix: str, *_) -> None:
    """Pre-hook of ``load_state_dict`` of a VAN: rename the keys of any layout to its own, in place.

    The backbone has to be in ``state_dict`` completely, or not at all. mmengine loads with ``strict=False``, so without
    this rule the weights of another VAN size would leave most of the backbone as it was initialized.

    Args:
        backbone (Module): The VAN.
        state_dict (dict): What is being loaded. Keys below ``prefix`` are replaced. With an empty prefix this is a
            whole file, whose other keys (a classifier, the heads of a detector) are dropped.
        prefix (str): Of the backbone in the model, such as ``'backbone.'``, or ``''`` for a backbone by itself.

    Raises:
        WeightsError: If keys are missing, unexpected, of another shape or not finite.
    """
    given = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    if not given:
        return
    weights = {key.removeprefix(prefix): value for key, value in given.items()} if prefix else get_state_dict(given)
    weights, rest = split_state_dict(weights)
    if prefix:
        weights |= rest  # below the prefix of a backbone there should be nothing else
    if not weights:
        raise WeightsError(NO_VAN_WEIGHTS)
    own = backbone.state_dict()
    if hasattr(backbone, "_params_init_info"):  # inside mmengine's init_weights, which loads pretrained weights
        adapted = adapt_input_channels(weights, own)
        if adapted:
            print_log(adapted, "current", level=logging.WARNING)
    problems = find_mismatches(own, weights)
    if problems:
        raise WeightsError(
            f"these weights are not of this VAN: of {len(own)} keys of the backbone, {'; '.join(problems)}"
        )
    for key in given:
        del state_dict[key]
    state_dict |= {prefix + key: value for key, value in weights.items()}


def rename_model_keys(name: str, model: Module, state_dict: dict, prefix: str, *_) -> None:
    """Pre-hook of ``load_state_dict`` of a VAN's parent: rename the keys of a bare backbone or classifier, in place.

    The files of the authors and of Hugging Face have no ``backbone.`` before the keys of the backbone, so
    ``load_state_dict`` would not pass them to it. A state dict that has the model's own keys stays as it is.

    Args:
        name (str): The VAN's name in its parent, usually ``'backbone'``.
        model (Module): The parent, which PyTorch passes to every such hook.
        state_dict (dict): What is being loaded.
        prefix (str): Of the model in ``state_dict``.
    """
    given = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    if not given or any(key.startswith(f"{prefix}{name}.") for key in given):
        return
    try:
        weights = get_state_dict({key.removeprefix(prefix): value for key, value in given.items()})
    except WeightsError:
        return
    backbone, rest = split_state_dict(weights)
    if backbone:
        for key in given:
            del state_dict[key]
        state_dict |= {f"{prefix}{name}.{key}": value for key, value in backbone.items()}
        state_dict |= {prefix + key: value for key, value in rest.items()}


def adapt_input_channels(weights: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """Adapt the first convolution of pretrained weights to the input channels of a VAN, in place.

    For a single channel the weights are summed, so that a gray image gives the result of its three equal channels. For
    other numbers they are repeated and scaled, so that the sum over all channels stays the same.

    Args:
        weights (dict): State dict of a backbone under official names.
        own (dict): State dict of the VAN.

    Returns:
        str | None: A line that says what was changed. None if the channels are the same.
    """
    if FIRST_CONV not in weights or FIRST_CONV not in own:
        return None
    weight, shape = weights[FIRST_CONV], own[FIRST_CONV].shape
    given, wanted = weight.shape[1:2].numel(), shape[1]
    if given == wanted or weight.shape[:1] + weight.shape[2:] != shape[:1] + shape[2:]:
        return None  # nothing to do, or another architecture, which the caller reports
    if wanted == 1:
        adapted, change = weight.sum(1, keepdim=True), "its weights are summed"
    else:
        adapted = weight.repeat(1, math.ceil(wanted / given), 1, 1)[:, :wanted] * (given / wanted)
        change = f"its weights are repeated and scaled by {given}/{wanted}"
    weights[FIRST_CONV] = adapted.to(weight.dtype)
    return f"the first convolution is adapted from {given} to {wanted} input channels: {change}"


def format_keys(keys: list[str]) -> str:
    """Return the first four keys and the number of the others."""
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def find_mismatches(own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """List what keeps ``weights`` from being loaded into a module.

    Args:
        own (dict): State dict of the module.
        weights (dict): State dict to load.

    Returns:
        list[str]: A phrase for each kind of problem, with counts and keys: missing keys (BatchNorm's
        ``num_batches_tracked`` may be missing), unexpected keys, other shapes, values that are not finite.
    """
    kinds = {
        "missing": [k for k in own if k not in weights and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in weights if k not in own],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {kind} ({format_keys(keys)})" for kind, keys in kinds.items() if keys]
    bad = find_nonfinite(weights)
    return found + ([f"{len(bad)} with NaN or infinite values ({format_keys(bad)})"] if bad else [])


def find_nonfinite(weights: dict[str, Tensor]) -> list[str]:
    """Return the keys of the tensors that have NaN or infinite values."""
    return [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]


def find_nonfinite_buffers(model: Module) -> frozenset[str]:
    """Return the names of a model's buffers with infinite values, such as attention masks of -inf."""
    return frozenset(find_nonfinite(dict(model.named_buffers())))


def to_layout(backbone: dict[str, Tensor], rest: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Return a state dict in the layout of another implementation.

    Args:
        backbone (dict): The backbone under official names, from :func:`split_state_dict`.
        rest (dict): The other weights. All layouts but ``'van_mm'`` keep only the classifier, ``head.fc``.
        layout (str): ``'van_mm'``, ``'official'``, ``'mmpretrain'`` or ``'huggingface'``.

    Raises:
        WeightsError: If the layout is that of an implementation which lacks the backbone's attention module.
    """
    attention = guess_attention(backbone)
    if attention != "LKA" and layout in ("mmpretrain", "huggingface"):
        raise WeightsError(
            f"these weights are of {attention}, which {layout} lacks. Choose the layout van_mm or official"
        )
    head = {key: value for key, value in rest.items() if key.startswith("head.fc.")}
    if layout == "official":
        return backbone | {key.replace("head.fc", "head"): value for key, value in head.items()}
    if layout == "van_mm":
        return {f"backbone.{key}": value for key, value in backbone.items()} | rest
    if layout == "mmpretrain":
        return {f"backbone.{to_mmpretrain_key(key)}": value for key, value in backbone.items()} | head
    renamed = {to_huggingface_key(key): value for key, value in backbone.items()}
    last = max(int(key[4:-7]) for key in backbone if re.match(r"norm\d+\.weight", key))
    for kind in ("weight", "bias"):  # a norm of VanModel that is never called
        renamed[f"van.layernorm.{kind}"] = backbone[f"norm{last}.{kind}"].clone()
    return renamed | {key.replace("head.fc", "classifier"): value for key, value in head.items()}


def to_mmpretrain_key(key: str) -> str:
    """Return mmpretrain's name of a parameter of the backbone, given its official name."""
    for pattern, name in (
        (r"^block(\d)\.", r"blocks\1."),
        (r"^(patch_embed\d)\.proj\.", r"\1.projection."),
        (r"\.conv0\.", ".DW_conv."),
        (r"\.conv_spatial\.", ".DW_D_conv."),
        (r"\.dwconv\.dwconv\.", ".dwconv."),
    ):
        key = re.sub(pattern, name, key)
    return key


def to_huggingface_key(key: str) -> str:
    """Return Hugging Face's name of a parameter of the backbone, given its official name."""
    stage = int(re.match(r"[a-z_]+(\d)", key)[1]) - 1
    for pattern, name in (
        (r"^patch_embed\d\.proj\.", "embeddings.convolution."),
        (r"^patch_embed\d\.norm\.", "embeddings.normalization."),
        (r"^block\d\.", "layers."),
        (r"^norm\d\.", "normalization."),
        (r"(layers\.\d+)\.norm1\.", r"\1.pre_normomalization."),
        (r"(layers\.\d+)\.norm2\.", r"\1.post_normalization."),
        (r"\.attn\.proj_1\.", ".attention.pre_projection.conv."),
        (r"\.attn\.proj_2\.", ".attention.post_projection."),
        (r"\.attn\.spatial_gating_unit\.conv0\.", ".attention.attention_layer.attention.depth_wise."),
        (r"\.attn\.spatial_gating_unit\.conv_spatial\.", ".attention.attention_layer.attention.depth_wise_dilated."),
        (r"\.attn\.spatial_gating_unit\.conv1\.", ".attention.attention_layer.attention.point_wise."),
        (r"\.layer_scale_1$", ".attention_scaling.weight"),
        (r"\.layer_scale_2$", ".mlp_scaling.weight"),
        (r"\.mlp\.fc1\.", ".mlp.in_dense."),
        (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depth_wise."),
        (r"\.mlp\.fc2\.", ".mlp.out_dense."),
    ):
        key = re.sub(pattern, name, key)
    return f"van.encoder.stages.{stage}.{key}"
