"""VAN in place of the backbone of any config of the four codebases."""

import copy
import inspect
import math
from collections.abc import Iterator, Sequence

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

from van_mm.configs import CODEBASES, get_config
from van_mm.demo import dicts
from van_mm.errors import UserError
from van_mm.models.van import ALIASES, VAN, get_arch
from van_mm.trial import both, drop_weights, image_size, trial, trial_model
from van_mm.weights import SCHEME, TABLE

STRIDES = (4, 8, 16, 32)  # of VAN's stages
INHERITED = ("drop_path_rate", "frozen_stages", "norm_eval", "with_cp")
PYRAMIDS = ("Feature2Pyramid", "MultiLevelNeck")  # necks that make one of a transformer's maps, which have one size
CHANNELS = ("in_channels", "input_features")  # ends of the keys that say what a part reads; the second is a norm's
INNER_HEADS = ("kernel_generate_head", "pose_cfg")  # which their head hands the maps to
RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])  # ImageNet's, for VAN's weights
LAYER_DECAY = ("decay_rate", "decay_type", "layer_decay_rate", "num_layers")  # of paramwise_cfg
# Whose config has the paper's optimiser: by what the experiment has of this type, or else by codebase.
OPTIMIZERS = {
    "CUB": "cls/van_b4_in22k_cub",
    "MaskFormer": "det/mask2former_van_b2_50e_coco_panoptic",
    "Mask2Former": "det/mask2former_van_b2_50e_coco_panoptic",
    "FPNHead": "seg/semantic_fpn_van_b2",
    "van_mm.SaliencyDataset": "seg/edn_van_b1_duts",
    "mmpretrain": "cls/van_b2_in1k",
    "mmdet": "det/mask_rcnn_van_b2_1x_coco",
    "mmseg": "seg/upernet_van_b2",
    "mmpose": "pose/simplebaseline_van_b2_coco_256x192",
}
LISTED = 8  # dropped options that a line names
NO_CPU = "implementation for device cpu not found."


def swap_backbone(cfg: Config, arch: str) -> list[str]:
    """Make VAN the backbone of a config, in place, and make right what depends on it.

    What the old backbone gives is found by running it; its channels are then looked for in what reads it: the neck, or
    without one the heads. Each level becomes the VAN stage of its stride. VAN starts from its ImageNet weights, fed as
    they were trained, unless the config trains a classifier from random ones. Everything else stays as it is. The new
    model is built and run once.

    Args:
        cfg (Config): Of an experiment with one image backbone.
        arch (str): Size of the VAN, ``'b0'`` to ``'b6'``, or another name of it.

    Returns:
        list[str]: What changed, a line each; empty if the backbone was this VAN already.

    Raises:
        UserError: If the backbone can't be replaced, and then nothing has changed; the message says why.
    """
    if cfg.get("default_scope") not in CODEBASES:
        raise UserError(f"--backbone: default_scope is {cfg.get('default_scope')!r}, none of the four codebases")
    draft = Config(copy.deepcopy(cfg._cfg_dict))
    init_default_scope(cfg.default_scope)
    changes = replace(draft, arch)
    if changes:
        changes += check(draft)
        for key, value in draft.items():
            if cfg.get(key) != value:
                cfg[key] = value
    return changes


def replace(cfg: Config, arch: str) -> list[str]:
    """:func:`swap_backbone`, in place and untried."""
    arch = ALIASES.get(arch.lower(), arch.lower())
    try:
        widths = get_arch(arch)["embed_dims"]
    except ValueError as error:
        raise UserError(f"--backbone: {error}") from error
    path, part = holder(cfg.model)
    old_backbone = part.backbone
    if is_van(old_backbone, cfg.default_scope):
        if old_backbone.arch == arch:
            return []
        indices = tuple(old_backbone.get("out_indices", range(4)))
        old = [get_arch(old_backbone.arch)["embed_dims"][index] for index in indices]
        backbone, changes = ConfigDict(copy.deepcopy(old_backbone), arch=arch), []
    else:
        levels = outputs(old_backbone, both(old_backbone.get("img_size")) or image_size(cfg))
        old, indices = [channels for channels, _ in levels], stages_of([stride for _, stride in levels])
        refuse(cfg, path, part, levels, indices)
        backbone, changes = successor(old_backbone, arch, indices), adapt(part, path, levels[-1][1], indices[-1])
        if max(indices) < len(STRIDES) - 1:
            cfg.find_unused_parameters = True
            changes.append("find_unused_parameters: True, as the last stage is not used")
    new = [widths[index] for index in indices]

    changes.insert(0, f"{path}.backbone: {old_backbone.type} -> VAN-{arch.upper()}, out_indices={indices}")
    changes += start_from_weights(cfg, path, part, backbone, f"{arch}_in1k")
    dropped = sorted(set(old_backbone) - set(backbone) - {"init_cfg", "type", "depth"})
    if dropped:
        more = f" and {len(dropped) - LISTED} more" if len(dropped) > LISTED else ""
        changes.append(f"dropped, of {old_backbone.type} only: {', '.join(dropped[:LISTED])}{more}")
    part.backbone = backbone
    return [*changes, *refit(part, path, old, new), *plain_learning_rates(cfg)]


def holder(model: ConfigDict, path: str = "model") -> tuple[str, ConfigDict]:
    """Where the one backbone of a model is: in itself, or, of trackers and semi-supervised detectors, in its detector.

    Raises:
        UserError: If there is no backbone, or several.
    """

    def found(node: ConfigDict, path: str) -> Iterator[tuple[str, ConfigDict]]:
        if isinstance(node.get("backbone"), dict):
            yield path, node
        for key, value in node.items():
            if isinstance(value, dict):
                yield from found(value, f"{path}.{key}")

    places = list(found(model, path))
    if len(places) != 1 or len([node for node in dicts(model) if isinstance(node.get("backbone"), dict)]) != 1:
        count = f"has {len(places)}: {', '.join(f'{place}.backbone' for place, _ in places)}" if places else "has none"
        raise UserError(f"--backbone takes configs with one image backbone; this one {count}")
    return places[0]


def is_van(backbone: ConfigDict, scope: str) -> bool:
    """Whether a backbone is this package's VAN; mmpretrain has one of that name."""
    return backbone.type in (VAN, "van_mm.VAN") or (backbone.type == "VAN" and scope != "mmpretrain")


def refuse(cfg: Config, path: str, part: ConfigDict, levels: list[tuple[int, int]], indices: tuple[int, ...]) -> None:
    """See that nothing hangs on what the old backbone alone can do.

    Args:
        cfg (Config): Of the experiment.
        path (str): Of ``part`` in it.
        part (ConfigDict): What has the backbone.
        levels (list[tuple[int, int]]): Channels and strides of the old backbone, from :func:`outputs`.
        indices (tuple[int]): The VAN stages that are to take their places.

    Raises:
        UserError: If something does.
    """
    kind, neck = part.backbone.type, part.get("neck")
    for key in ("plugins", "dcn"):
        if part.backbone.get(key):
            raise UserError(f"--backbone: {kind} has {key} inside of its stages; VAN has no such thing")
    shared = part.get("roi_head", {}).get("shared_head")
    if shared:
        raise UserError(f"--backbone: roi_head.shared_head ({shared.type}) is the last stage of {kind}")
    head = part.get("decode_head", {})
    index = head.get("in_index", -1) if isinstance(head, dict) else -1
    if isinstance(index, int) and not neck and indices[index] != max(indices):
        raise UserError(
            f"--backbone: {path}.decode_head reads level {index} of {kind}, which fuses its levels itself; of VAN that "
            f"would be stage {indices[index] + 1} alone"
        )
    head = next((key for key in ("bbox_head", "head") if part.get(key)), None)
    if head and not neck and len(levels) > 1 and len(set(levels)) == 1:
        raise UserError(f"--backbone: {path}.{head} reads {len(levels)} alike maps; VAN's stages are not alike")
    strides = [stride for _, stride in levels]
    if cfg.default_scope == "mmdet" and any(a and a != STRIDES[i] for a, i in zip(strides, indices, strict=True)):
        raise UserError(f"--backbone: boxes are placed by strides of {strides}; VAN's stages have {STRIDES}")


def successor(backbone: ConfigDict, arch: str, indices: tuple[int, ...]) -> ConfigDict:
    """VAN with the options of another backbone that mean the same."""
    van = ConfigDict(type="van_mm.VAN", arch=arch, out_indices=indices)
    for key in INHERITED:
        if key in backbone:
            van[key] = backbone[key]
    if van.get("frozen_stages", -1) > len(STRIDES):  # of a transformer's blocks: all
        van.frozen_stages = len(STRIDES)
    if backbone.get("norm_cfg", {}).get("type") == "SyncBN":
        van.norm_cfg = dict(type="SyncBN", requires_grad=True)
    return van


@torch.no_grad()
def outputs(backbone: ConfigDict, size: Sequence[int]) -> list[tuple[int, int]]:
    """Channels and stride, a power of two, of each level that a backbone gives for an image; of a vector or tokens, the
    stride is 0.

    Raises:
        UserError: If it does not build or run, or gives no maps.
    """
    cfg = copy.deepcopy(backbone)
    drop_weights(cfg)
    try:
        model = MODELS.build(cfg)
        if "mask" in inspect.signature(model.forward).parameters:
            raise UserError(f"--backbone: {backbone.type} masks what it reads, to be pre-trained; VAN does not")
        model.eval()  # which returns nothing where a backbone of MMLab has its own train()
        maps = model(torch.zeros(1, 3, *size))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--backbone: {backbone.type} does not run on an image: {type(error).__name__}: {error}"
        ) from error
    maps = maps if isinstance(maps, (list, tuple)) else [maps]
    if not all(isinstance(one, Tensor) and one.dim() in ((2, 3, 4) if len(maps) == 1 else (2, 4)) for one in maps):
        raise UserError(f"--backbone: {backbone.type} gives no feature maps of an image, but what its head alone reads")
    # a map of 18 pixels of 550 has stride 32
    strides = [2 ** round(math.log2(size[1] / one.shape[-1])) if one.dim() == 4 else 0 for one in maps]
    return [(one.shape[1], stride) for one, stride in zip(maps, strides, strict=True)]


def stages_of(strides: list[int]) -> tuple[int, ...]:
    """The VAN stage for each level: that of its stride; of dilated backbones, whose strides repeat, the last ones, and
    of U-Nets, whose last level is the one that heads read, too.

    Raises:
        UserError: If there are more levels than stages.
    """
    if len(strides) > 1 and all(stride in STRIDES for stride in strides) and len(set(strides)) == len(strides):
        return tuple(STRIDES.index(stride) for stride in strides)
    first = len(STRIDES) - len(strides)
    if first < 0 and strides != sorted(strides, reverse=True):
        raise UserError(f"--backbone: the old one gives levels of strides {strides}, VAN has those of {STRIDES}")
    return tuple(max(0, first + level) for level in range(len(strides)))


def adapt(part: ConfigDict, path: str, old: int, stage: int) -> list[str]:
    """Make up for another stride of the last level, which was ``old``: pool where there was a vector, upsample where a
    key point head took a finer map. What changed, a line each."""
    new = STRIDES[stage]
    neck, head = part.get("neck") or {}, part.get("head") or {}
    if old == 0 and isinstance(neck, dict):
        pooling = ConfigDict(type="GlobalAveragePooling")
        part.neck = [pooling, neck] if neck and neck.type != pooling.type else pooling
        return [f"{path}.neck: GlobalAveragePooling, as there is a map in place of a vector"]
    if isinstance(neck, dict) and neck.get("type") in PYRAMIDS:
        del part["neck"]
        return [f"{path}.neck: {neck.type} dropped, VAN's maps are a pyramid as they are"]
    if new > old > 0 and "deconv_out_channels" in head:
        steps = (new // old).bit_length() - 1  # as SimpleBaseline's, each doubles the map
        before = tuple(head.deconv_out_channels or ())
        kernels = tuple(head.get("deconv_kernel_sizes") or (4,) * len(before))[: len(before)]
        head.deconv_out_channels, head.deconv_kernel_sizes = (256,) * steps + before, (4,) * steps + kernels
        channels = head.deconv_out_channels
        return [f"{path}.head.deconv_out_channels: {before} -> {channels}, as maps are {new // old} times smaller"]
    return []


def start_from_weights(cfg: Config, path: str, part: ConfigDict, backbone: ConfigDict, name: str) -> list[str]:
    """Let VAN start from its published weights, and feed it what they know; no weights of the old model stay.

    Classifiers that start from random weights go on to.
    """
    changes, scratch = [], cfg.default_scope == "mmpretrain" and not cfg.get("load_from")
    for place, node in {path: part, "model": cfg.model}.items():
        if is_pretrained(node.get("init_cfg")):
            scratch = False
            del node["init_cfg"]
            changes.append(f"{place}.init_cfg: dropped, the weights are of the old model")
    if cfg.get("load_from"):
        changes.append(f"load_from: {cfg.load_from} -> None, the weights are of the old model")
        cfg.load_from = None
    if not part.pop("pretrained", None) and not is_pretrained(part.backbone.get("init_cfg")) and scratch:
        return changes
    source = SCHEME + (name if name in TABLE else name.replace("in1k", "in22k"))
    backbone.init_cfg = dict(type="Pretrained", checkpoint=source)
    return [*changes, f"{path}.backbone.init_cfg: {source}", *normalise(cfg)]


def is_pretrained(init_cfg) -> bool:
    return any(node.get("type") == "Pretrained" for node in dicts(init_cfg))


def normalise(cfg: Config) -> list[str]:
    """See that the backbone is fed RGB of about unit deviation; Caffe's weights were not, nor are some that start from
    random ones."""
    place = "model.data_preprocessor" if cfg.model.get("data_preprocessor") else "data_preprocessor"
    top = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    found = [node for node in dicts(top) if "mean" in node or str(node.get("type")).endswith("DataPreprocessor")]
    if not found:
        return []
    node = found[-1]
    key = "to_rgb" if "to_rgb" in node or cfg.default_scope == "mmpretrain" else "bgr_to_rgb"
    if node.get(key) and all(45 < value < 135 for value in node.get("std") or (0,)):
        return []
    before = {name: node.get(name) for name in (*RGB, key)}
    node.pop("rgb_to_bgr", None)
    node.update(RGB, **{key: True})
    changed = (f"{name} {value} -> {node[name]}" for name, value in before.items() if value != node[name])
    return [f"{place}: {', '.join(changed)}, as VAN's weights were trained"]


def plain_learning_rates(cfg: Config) -> list[str]:
    """Drop learning rates by layer, whose constructors know the layers of the old backbone only."""
    wrapper = cfg.get("optim_wrapper") or {}
    if "Decay" not in str(wrapper.get("constructor", "")):
        return []
    constructor = wrapper.pop("constructor")
    for key in LAYER_DECAY:
        wrapper.get("paramwise_cfg", {}).pop(key, None)
    return [f"optim_wrapper.constructor: {constructor} dropped, it decays by the layers of the old backbone"]


def readers(part: ConfigDict, path: str) -> list[tuple[str, ConfigDict]]:
    """What reads the backbone: the first neck that has channels, or without one the heads."""
    necks = nodes(part, "neck", path)
    for place, neck in necks:
        if "in_channels" in neck:  # JPU hands levels on but for the last
            return [(place, neck), *(nodes(part, "auxiliary_head", path) if neck.type == "JPU" else [])]
    heads = [one for key in part if key.endswith("head") for one in nodes(part, key, path)]
    inner = [one for place, head in heads for key in INNER_HEADS for one in nodes(head, key, place)]
    return [*necks, *heads, *inner]


def nodes(node: ConfigDict, key: str, path: str) -> list[tuple[str, ConfigDict]]:
    """The dict under a key, or each of several, with its place."""
    value, path = node.get(key) or [], f"{path}.{key}"
    return [(path, value)] if isinstance(value, dict) else [(f"{path}.{i}", one) for i, one in enumerate(value)]


def selected(part: ConfigDict, channels: list[int]) -> list[int]:
    """The channels that heads see: of mmpose's FeatureMapProcessor the selected ones, or, put together, their sum."""
    for _, neck in nodes(part, "neck", ""):
        if neck.type == "FeatureMapProcessor":
            index = neck.get("select_index")
            picked = range(len(channels)) if index is None else [index] if isinstance(index, int) else index
            channels = [channels[i] for i in picked]
            channels = [sum(channels)] if neck.get("concat") else channels
    return channels


def refit(part: ConfigDict, path: str, old: list[int], new: list[int]) -> list[str]:
    """Put the new channels for the old ones in what reads the backbone; what changed, a line each."""
    old, new = selected(part, old), selected(part, new)
    places = [(place, node, key) for place, node in readers(part, path) for key in node if key.endswith(CHANNELS)]
    for place, node, _ in places[:]:
        passed = node.get("out_channels")
        if isinstance(passed, (list, tuple)) and list(passed[: len(old)]) == old:  # SSD's neck passes levels on
            places += [(place, node, "out_channels"), (f"{path}.bbox_head", part.bbox_head, "in_channels")]
    changes = []
    for place, node, key in places:
        value, index = node[key], node.get("in_index", -1)
        if isinstance(value, (list, tuple)):
            picked = index if isinstance(index, (list, tuple)) else range(len(old))
            values, levels = list(value), [old[i] for i in picked]
            if values[: len(levels)] == levels:
                values[: len(levels)] = [new[i] for i in picked]
            elif len(set(old)) == len(old) and all(one in old for one in values):  # some of them, or in another order
                values = [new[old.index(one)] for one in values]
            node[key] = type(value)(values)
        elif key in ("in_channels", "input_features") and isinstance(index, int) and value == old[index]:
            node[key] = new[index]
        elif key.endswith("_in_channels") and value in old:  # c1_in_channels, of a level that its head knows
            node[key] = new[old.index(value)]
        if node[key] != value:
            changes.append(f"{place}.{key}: {value} -> {node[key]}")
            if node.get("num_convs") == 0 and node.get("channels") == value:  # FCNHead's, which then are the same
                node.channels = node[key]
                changes.append(f"{place}.channels: {value} -> {node[key]}")
    return changes


def check(cfg: Config) -> list[str]:
    """Build the model and run it on an image.

    Returns:
        list[str]: What had to change for it, or why it could not be run, a line each.

    Raises:
        UserError: If it does not build or run.
    """
    model, (path, part) = trial_model(cfg), holder(cfg.model)
    van = next(module for module in model.modules() if isinstance(module, VAN))
    # To heads that reshape, maps of one image are good in any memory order; some detectors take no more than one.
    options = dict(batch=1 if cfg.default_scope == "mmdet" else 2, boxes=8)
    try:
        try:
            found = trial(model, cfg, **options)
        except RuntimeError as error:
            if "contiguous" not in str(error):
                raise
            van.contiguous = True
            found = trial(model, cfg, **options)
    except Exception as error:
        if str(error).rstrip().endswith(NO_CPU):  # one of mmcv's operators
            return [f"not tried: {str(error).strip()}"]
        raise UserError(f"--backbone: the model does not run with VAN: {type(error).__name__}: {error}") from error
    codec = cfg.get("codec", {})
    size = codec.get("heatmap_size") if isinstance(codec, dict) else None
    given = tuple(found.shape[:1:-1]) if isinstance(found, Tensor) and found.dim() == 4 else None  # width and height
    if size and given and given != tuple(size):
        raise UserError(f"--backbone: heat maps of VAN are {given}, and those of codec.heatmap_size {tuple(size)}")
    if not van.contiguous or part.backbone.get("contiguous"):
        return []
    part.backbone.contiguous = True
    return [f"{path}.backbone.contiguous: True, as an operator behind it asks for"]


def paper_optimizer(cfg: Config) -> list[str]:
    """Put the optimiser that the paper trains this task with (section 4) in place of a config's own. Clipping and
    precision stay.

    Returns:
        list[str]: What changed, a line each.
    """
    types = {node.get("type") for node in dicts([cfg.model, cfg.train_dataloader.dataset])}
    source = next(name for key, name in OPTIMIZERS.items() if key in types or key == cfg.default_scope)
    paper, wrapper = get_config(source), cfg.optim_wrapper
    old, new = wrapper.optimizer, paper.optim_wrapper.optimizer
    for key in ("optimizer", "constructor", "paramwise_cfg"):
        wrapper.pop(key, None)
        if key in paper.optim_wrapper:
            wrapper[key] = paper.optim_wrapper[key]
    batch = paper.auto_scale_lr.base_batch_size
    cfg.auto_scale_lr = dict(cfg.get("auto_scale_lr", {}), base_batch_size=batch)
    return [
        f"optim_wrapper.optimizer: {old.type}, lr {old.get('lr')} -> {new.type}, lr {new.lr}, of {source}, for batches "
        f"of {batch}"
    ]
