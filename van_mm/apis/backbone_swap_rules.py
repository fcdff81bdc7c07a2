"""The steps of replacing the backbone of a config by VAN.

:func:`van_mm.swap_backbone` performs them in the order of this file:

1. find the backbone in the model;
2. probe the channels and strides of its levels by running it;
3. match each level to a VAN stage;
4. check that the rest of the model can use VAN;
5. build VAN's config;
6. adapt the neck or head if the stride of the last level changes;
7. update the input channels of necks and heads;
8. start from VAN's weights, with the image normalization that they need;
9. drop learning rates that are set by layer of the old backbone.

All functions that change a config change it in place and return the changes, one line each.
"""

import copy
import inspect
import math
from collections.abc import Iterator, Sequence

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor

from van_mm.checkpoints.io import MODEL_ZOO, MODEL_ZOO_PREFIX
from van_mm.models.backbones.van import VAN
from van_mm.utils.config_walk import drop_pretrained, iter_dicts
from van_mm.utils.errors import UserError

STAGE_STRIDES = (4, 8, 16, 32)  # table 5 of the paper
# Options of other backbones that VAN has too, with the same name and meaning.
INHERITED_OPTIONS = ("drop_path_rate", "frozen_stages", "norm_eval", "with_cp")
# Necks that make a pyramid of the maps of a transformer, which all have the same size.
PYRAMID_NECKS = ("Feature2Pyramid", "MultiLevelNeck")
# Endings of the keys that hold the channels which a part reads. input_features is the key of mmpretrain's norm necks.
CHANNEL_SUFFIXES = ("in_channels", "input_features")
INNER_HEADS = ("kernel_generate_head", "pose_cfg")  # heads inside other heads, which pass the feature maps on to them
IMAGENET_MEAN_STD = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])  # of RGB values from 0 to 255
LAYER_DECAY_KEYS = ("decay_rate", "decay_type", "layer_decay_rate", "num_layers")  # keys of paramwise_cfg
MAX_LISTED_OPTIONS = 8  # our choice: the number of dropped options that fits on a line


# ---- 1. Find the backbone -------------------------------------------------------------------------------------------


def find_backbone_parent(model: ConfigDict, path: str = "model") -> tuple[str, ConfigDict]:
    """Return the part of a model that contains the backbone.

    This is usually the model itself. Trackers and semi-supervised detectors contain a detector that has the backbone.

    Args:
        model (ConfigDict): ``model`` of a config.
        path (str): Dotted key of ``model``. Defaults to 'model'.

    Returns:
        tuple[str, ConfigDict]: Dotted key and config of the part, such as ``'model.detector'``.

    Raises:
        UserError: If the model has no backbone, or several.
    """

    def iter_parents(node: ConfigDict, path: str) -> Iterator[tuple[str, ConfigDict]]:
        if isinstance(node.get("backbone"), dict):
            yield path, node
        for key, value in node.items():
            if isinstance(value, dict):
                yield from iter_parents(value, f"{path}.{key}")

    parents = list(iter_parents(model, path))
    if len(parents) != 1 or len([node for node in iter_dicts(model) if isinstance(node.get("backbone"), dict)]) != 1:
        paths = ", ".join(f"{parent}.backbone" for parent, _ in parents)
        count = f"has {len(parents)}: {paths}" if parents else "has none"
        raise UserError(f"--backbone takes configs with one image backbone; this one {count}")
    return parents[0]


def is_van(backbone: ConfigDict, scope: str) -> bool:
    """Return whether a backbone is this package's VAN.

    Args:
        backbone (ConfigDict): Config of a backbone.
        scope (str): ``default_scope`` of the config. In mmpretrain the plain name is mmpretrain's own VAN.
    """
    return backbone.type in (VAN, "van_mm.VAN") or (backbone.type == "VAN" and scope != "mmpretrain")


# ---- 2. Probe the old backbone --------------------------------------------------------------------------------------


@torch.no_grad()
def probe_levels(backbone: ConfigDict, size: Sequence[int]) -> list[tuple[int, int]]:
    """Run a backbone on an image to find its feature levels.

    Args:
        backbone (ConfigDict): Config of the backbone. It is built with random weights.
        size (Sequence[int]): Height and width of the image.

    Returns:
        list[tuple[int, int]]: Channels and stride of each level. Strides are powers of two. The stride is 0 if the
        output is a vector (1, C) or consists of tokens, instead of being a map (1, C, H, W).

    Raises:
        UserError: If the backbone does not build or run, or if its output is something else.
    """
    cfg = copy.deepcopy(backbone)
    drop_pretrained(cfg)
    try:
        model = MODELS.build(cfg)
        if "mask" in inspect.signature(model.forward).parameters:
            raise UserError(f"--backbone: {backbone.type} masks what it reads, for pre-training. VAN cannot do this")
        model.eval()  # not chained, because train() of some backbones in MMLab returns None
        maps = model(torch.zeros(1, 3, *size))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--backbone: {backbone.type} does not run on an image: {type(error).__name__}: {error}"
        ) from error
    maps = maps if isinstance(maps, (list, tuple)) else [maps]
    allowed_dims = (2, 3, 4) if len(maps) == 1 else (2, 4)
    if not all(isinstance(level, Tensor) and level.dim() in allowed_dims for level in maps):
        raise UserError(f"--backbone: {backbone.type} gives no feature maps of an image, only input for its own head")
    # Rounded to a power of two, because sizes are not always divisible: 18 pixels of 550 are stride 32.
    strides = [2 ** round(math.log2(size[1] / level.shape[-1])) if level.dim() == 4 else 0 for level in maps]
    return [(level.shape[1], stride) for level, stride in zip(maps, strides, strict=True)]


# ---- 3. Match levels to stages --------------------------------------------------------------------------------------


def match_stages(strides: list[int]) -> tuple[int, ...]:
    """Choose a VAN stage for each level of the old backbone.

    If the strides are all different, and all of them are strides of VAN, each level becomes the stage of its stride.
    Otherwise the levels become VAN's last stages, in order. This is the case for a single level, for dilated backbones,
    whose strides repeat, and for U-Nets, whose strides decrease.

    Args:
        strides (list[int]): Strides of the levels, from :func:`probe_levels`.

    Returns:
        tuple[int]: Indices of VAN's stages, from 0. If a U-Net has more levels than VAN, the first stage repeats.

    Raises:
        UserError: If there are more levels than stages, except for U-Nets.

    Example:
        >>> match_stages([8, 16, 32])
        (1, 2, 3)
        >>> match_stages([4, 8, 8, 8])
        (0, 1, 2, 3)
    """
    if len(strides) > 1 and all(stride in STAGE_STRIDES for stride in strides) and len(set(strides)) == len(strides):
        return tuple(STAGE_STRIDES.index(stride) for stride in strides)
    first = len(STAGE_STRIDES) - len(strides)
    if first < 0 and strides != sorted(strides, reverse=True):
        raise UserError(
            f"--backbone: the old backbone gives levels of strides {strides}, VAN has those of {STAGE_STRIDES} only"
        )
    return tuple(max(0, first + level) for level in range(len(strides)))


# ---- 4. Check that the swap is possible -----------------------------------------------------------------------------


def check_replaceable(
    cfg: Config, path: str, part: ConfigDict, levels: list[tuple[int, int]], indices: tuple[int, ...]
) -> None:
    """Raise if the config needs a feature that only the old backbone has.

    Args:
        cfg (Config): Config of the experiment.
        path (str): Dotted key of ``part``.
        part (ConfigDict): Part of the model that contains the backbone.
        levels (list[tuple[int, int]]): Channels and strides of the old backbone, from :func:`probe_levels`.
        indices (tuple[int]): VAN's stages that replace the levels, from :func:`match_stages`.

    Raises:
        UserError: If VAN cannot replace the backbone. The message names the feature.
    """
    kind, neck = part.backbone.type, part.get("neck")
    for key in ("plugins", "dcn"):
        if part.backbone.get(key):
            raise UserError(
                f"--backbone: {kind} has {key} inside of its stages, which VAN does not support. Use a config without "
                f"{key}"
            )
    shared_head = part.get("roi_head", {}).get("shared_head")
    if shared_head:
        raise UserError(
            f"--backbone: roi_head.shared_head ({shared_head.type}) is the last stage of {kind}. Use a config without "
            "shared_head"
        )
    decode_head = part.get("decode_head", {})
    index = decode_head.get("in_index", -1) if isinstance(decode_head, dict) else -1
    if isinstance(index, int) and not neck and indices[index] != max(indices):
        raise UserError(
            f"--backbone: {path}.decode_head reads level {index} of {kind}, which fuses its levels itself. VAN does "
            f"not fuse levels, so the head would read stage {indices[index] + 1} alone"
        )
    head = next((key for key in ("bbox_head", "head") if part.get(key)), None)
    if head and not neck and len(levels) > 1 and len(set(levels)) == 1:
        raise UserError(
            f"--backbone: {path}.{head} reads {len(levels)} alike maps, but VAN's stages differ in size and channels"
        )
    strides = [stride for _, stride in levels]
    if cfg.default_scope == "mmdet" and any(
        stride and stride != STAGE_STRIDES[index] for stride, index in zip(strides, indices, strict=True)
    ):
        raise UserError(
            f"--backbone: boxes are placed by strides of {strides}, but VAN's stages have strides of {STAGE_STRIDES}"
        )


# ---- 5. Build VAN's config ------------------------------------------------------------------------------------------


def make_van_cfg(backbone: ConfigDict, arch: str, indices: tuple[int, ...]) -> ConfigDict:
    """Make the config of the VAN that replaces a backbone.

    Args:
        backbone (ConfigDict): Config of the old backbone.
        arch (str): Size of the VAN.
        indices (tuple[int]): Stages that VAN returns.

    Returns:
        ConfigDict: VAN with those options of the old backbone that have the same meaning.
    """
    van = ConfigDict(type="van_mm.VAN", arch=arch, out_indices=indices)
    for key in INHERITED_OPTIONS:
        if key in backbone:
            van[key] = backbone[key]
    if van.get("frozen_stages", -1) > 0:
        van.frozen_stages = convert_frozen_stages(backbone)
    if backbone.get("norm_cfg", {}).get("type") == "SyncBN":
        van.norm_cfg = dict(type="SyncBN", requires_grad=True)
    return van


def convert_frozen_stages(backbone: ConfigDict) -> int:
    """Return the number of VAN's stages to freeze. Of the blocks that transformers count, the same share is frozen."""
    cfg = copy.deepcopy(backbone)
    drop_pretrained(cfg)
    num_stages = len(STAGE_STRIDES)
    num_blocks = max(getattr(MODELS.build(cfg), "num_layers", num_stages), num_stages)
    return min(backbone.frozen_stages * num_stages // num_blocks, num_stages)


# ---- 6. Adapt to the stride -----------------------------------------------------------------------------------------


def adapt_to_stride(part: ConfigDict, path: str, old: int, stage: int) -> list[str]:
    """Adapt the neck or head to the stride of VAN's last level.

    Pooling is added where the old backbone returned a vector. Necks that make a pyramid of equal maps are dropped.
    Keypoint heads get additional transposed convolutions where the old map was finer, so that heatmaps keep their size.

    Args:
        part (ConfigDict): Part of the model that contains the backbone. It is changed.
        path (str): Dotted key of ``part``.
        old (int): Stride of the old backbone's last level, or 0 for a vector.
        stage (int): Index of the VAN stage that replaces the level.

    Returns:
        list[str]: The changes, one line each.
    """
    new = STAGE_STRIDES[stage]
    neck, head = part.get("neck") or {}, part.get("head") or {}
    if old == 0 and isinstance(neck, dict):
        pooling = ConfigDict(type="GlobalAveragePooling")
        part.neck = [pooling, neck] if neck and neck.type != pooling.type else pooling
        return [f"{path}.neck: GlobalAveragePooling, because VAN returns a map instead of a vector"]
    if isinstance(neck, dict) and neck.get("type") in PYRAMID_NECKS:
        del part["neck"]
        return [f"{path}.neck: {neck.type} dropped, because VAN's maps form a pyramid already"]
    if new > old > 0 and "deconv_out_channels" in head:
        steps = (new // old).bit_length() - 1  # each transposed convolution doubles the size
        before = tuple(head.deconv_out_channels or ())
        kernels = tuple(head.get("deconv_kernel_sizes") or (4,) * len(before))[: len(before)]
        # 256 channels and kernels of 4 x 4 are SimpleBaseline's.
        head.deconv_out_channels, head.deconv_kernel_sizes = (256,) * steps + before, (4,) * steps + kernels
        channels = head.deconv_out_channels
        return [f"{path}.head.deconv_out_channels: {before} -> {channels}, because maps are {new // old} times smaller"]
    return []


# ---- 7. Update the input channels -----------------------------------------------------------------------------------


def update_in_channels(part: ConfigDict, path: str, old: list[int], new: list[int]) -> list[str]:
    """Replace the old backbone's channels by VAN's in the necks and heads that read the backbone.

    Args:
        part (ConfigDict): Part of the model that contains the backbone. Its necks and heads are changed.
        path (str): Dotted key of ``part``.
        old (list[int]): Channels of the old levels.
        new (list[int]): Channels of the VAN stages that replace them.

    Returns:
        list[str]: The changes, one line each.
    """
    old, new = select_channels(part, old), select_channels(part, new)
    settings = [
        (reader_path, node, key)
        for reader_path, node in find_feature_readers(part, path)
        for key in node
        if key.endswith(CHANNEL_SUFFIXES)
    ]
    for reader_path, node, _ in settings[:]:
        out_channels = node.get("out_channels")
        if isinstance(out_channels, (list, tuple)) and list(out_channels[: len(old)]) == old:
            # SSD's neck passes the levels on to the head, so both contain the backbone's channels too.
            settings += [(reader_path, node, "out_channels"), (f"{path}.bbox_head", part.bbox_head, "in_channels")]
    changes = []
    for reader_path, node, key in settings:
        value, index = node[key], node.get("in_index", -1)
        if isinstance(value, (list, tuple)):
            selected = index if isinstance(index, (list, tuple)) else range(len(old))
            values, levels = list(value), [old[i] for i in selected]
            if values[: len(levels)] == levels:
                values[: len(levels)] = [new[i] for i in selected]
            elif len(set(old)) == len(old) and all(channels in old for channels in values):
                # Only some of the levels, or all of them in another order.
                values = [new[old.index(channels)] for channels in values]
            node[key] = type(value)(values)
        elif key in CHANNEL_SUFFIXES and isinstance(index, int) and value == old[index]:
            node[key] = new[index]
        elif key.endswith("_in_channels") and value in old:  # such as c1_in_channels, whose level the head's code fixes
            node[key] = new[old.index(value)]
        if node[key] != value:
            changes.append(f"{reader_path}.{key}: {value} -> {node[key]}")
            # FCNHead without convolutions classifies the backbone's channels directly.
            if node.get("num_convs") == 0 and node.get("channels") == value:
                node.channels = node[key]
                changes.append(f"{reader_path}.channels: {value} -> {node[key]}")
    return changes


def select_channels(part: ConfigDict, channels: list[int]) -> list[int]:
    """Return the channels of the maps that the heads read.

    Args:
        part (ConfigDict): Part of the model that contains the backbone.
        channels (list[int]): Channels of the backbone's levels.

    Returns:
        list[int]: The same channels, unless the neck is mmpose's ``FeatureMapProcessor``. This neck selects levels or
        concatenates them.
    """
    for _, neck in get_children(part, "neck", ""):
        if neck.type == "FeatureMapProcessor":
            index = neck.get("select_index")
            selected = range(len(channels)) if index is None else [index] if isinstance(index, int) else index
            channels = [channels[i] for i in selected]
            channels = [sum(channels)] if neck.get("concat") else channels
    return channels


def find_feature_readers(part: ConfigDict, path: str) -> list[tuple[str, ConfigDict]]:
    """Return the parts that read the backbone: the first neck with channels, or all heads if there is no such neck.

    Args:
        part (ConfigDict): Part of the model that contains the backbone.
        path (str): Dotted key of ``part``.

    Returns:
        list[tuple[str, ConfigDict]]: Dotted keys and configs of the parts.
    """
    necks = get_children(part, "neck", path)
    for neck_path, neck in necks:
        if "in_channels" in neck:
            # JPU changes only the last level. Auxiliary heads read one of the other levels, which it passes on.
            return [(neck_path, neck), *(get_children(part, "auxiliary_head", path) if neck.type == "JPU" else [])]
    heads = [child for key in part if key.endswith("head") for child in get_children(part, key, path)]
    inner = [child for head_path, head in heads for key in INNER_HEADS for child in get_children(head, key, head_path)]
    return [*necks, *heads, *inner]


def get_children(node: ConfigDict, key: str, path: str) -> list[tuple[str, ConfigDict]]:
    """Return the dict or the list of dicts below a key.

    Args:
        node (ConfigDict): Config that may contain the key.
        key (str): Key of a dict or a list of dicts.
        path (str): Dotted key of ``node``.

    Returns:
        list[tuple[str, ConfigDict]]: Dotted keys and dicts. The list is empty if the key is missing or empty.
    """
    value, path = node.get(key) or [], f"{path}.{key}"
    return [(path, value)] if isinstance(value, dict) else [(f"{path}.{i}", child) for i, child in enumerate(value)]


# ---- 8. Weights and normalization -----------------------------------------------------------------------------------


def use_van_weights(cfg: Config, path: str, part: ConfigDict, backbone: ConfigDict, name: str) -> list[str]:
    """Make VAN start from its published weights, and drop all weights of the old model.

    A classifier that starts from random weights still does, because it may be trained on the data set of VAN's weights.

    Args:
        cfg (Config): Config of the experiment. Its ``load_from`` and the normalization of images are changed.
        path (str): Dotted key of ``part``.
        part (ConfigDict): Part of the model that contains the old backbone. Pretrained weights are removed from it.
        backbone (ConfigDict): VAN's config. It gets an ``init_cfg``.
        name (str): Name of the published weights, such as ``'b2_in1k'``. Sizes without ImageNet-1K weights get those of
            ImageNet-22K.

    Returns:
        list[str]: The changes, one line each.
    """
    changes, from_scratch = [], cfg.default_scope == "mmpretrain" and not cfg.get("load_from")
    for node_path, node in {path: part, "model": cfg.model}.items():
        if is_pretrained(node.get("init_cfg")):
            from_scratch = False
            del node["init_cfg"]
            changes.append(f"{node_path}.init_cfg: dropped, because its weights belong to the old model")
    if cfg.get("load_from"):
        changes.append(f"load_from: {cfg.load_from} -> None, because its weights belong to the old model")
        cfg.load_from = None
    if not part.pop("pretrained", None) and not is_pretrained(part.backbone.get("init_cfg")) and from_scratch:
        return changes
    source = MODEL_ZOO_PREFIX + (name if name in MODEL_ZOO else name.replace("in1k", "in22k"))
    backbone.init_cfg = dict(type="Pretrained", checkpoint=source)
    return [*changes, f"{path}.backbone.init_cfg: {source}", *use_van_normalization(cfg)]


def is_pretrained(init_cfg) -> bool:
    """Return whether an ``init_cfg``, which may be a dict, a list of dicts or None, loads a checkpoint."""
    return any(node.get("type") == "Pretrained" for node in iter_dicts(init_cfg))


def use_van_normalization(cfg: Config) -> list[str]:
    """Make the data preprocessor return RGB images of about unit variance, as in the training of VAN's weights.

    Backbones with weights from Caffe read BGR images that are not divided by a standard deviation, and some detectors
    that train from scratch read pixel values as they are. A normalization that fits already is not changed.

    Args:
        cfg (Config): Config of the experiment. Its data preprocessor is changed.

    Returns:
        list[str]: The changes, one line each.
    """
    path = "model.data_preprocessor" if cfg.model.get("data_preprocessor") else "data_preprocessor"
    outermost = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    preprocessors = [
        node for node in iter_dicts(outermost) if "mean" in node or str(node.get("type")).endswith("DataPreprocessor")
    ]
    if not preprocessors:
        return []
    node = preprocessors[-1]  # the innermost one: semi-supervised detectors wrap the preprocessor of their detector
    key = "to_rgb" if "to_rgb" in node or cfg.default_scope == "mmpretrain" else "bgr_to_rgb"
    # Our choice: 45 to 135 includes ImageNet's standard deviations and 127.5, and excludes 1 and 255.
    if node.get(key) and all(45 < value < 135 for value in node.get("std") or (0,)):
        return []
    before = {name: node.get(name) for name in (*IMAGENET_MEAN_STD, key)}
    node.pop("rgb_to_bgr", None)
    node.update(IMAGENET_MEAN_STD, **{key: True})
    changed = (f"{name} {value} -> {node[name]}" for name, value in before.items() if value != node[name])
    return [f"{path}: {', '.join(changed)}, as in the training of VAN's weights"]


# ---- 9. Learning rates ----------------------------------------------------------------------------------------------


def drop_layer_decay(cfg: Config) -> list[str]:
    """Drop learning rates by layer, because their optimizer constructor knows only the layers of the old backbone.

    Args:
        cfg (Config): Config of the experiment. Its ``optim_wrapper`` is changed.

    Returns:
        list[str]: The changes, one line each.
    """
    wrapper = cfg.get("optim_wrapper") or {}
    if "Decay" not in str(wrapper.get("constructor", "")):
        return []
    constructor = wrapper.pop("constructor")
    for key in LAYER_DECAY_KEYS:
        wrapper.get("paramwise_cfg", {}).pop(key, None)
    return [f"optim_wrapper.constructor: {constructor} dropped, because it decays by layers of the old backbone"]
