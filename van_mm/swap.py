"""VAN in place of the backbone of any config of the four codebases."""

import copy

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from van_mm.configs import get_config
from van_mm.demo import dicts
from van_mm.errors import UserError
from van_mm.models.van import VAN, get_arch
from van_mm.weights import SCHEME, TABLE

STRIDES = (4, 8, 16, 32)  # of VAN's stages
INHERITED = ("frozen_stages", "norm_eval", "with_cp")
OPTIMIZERS = {  # whose config has the paper's
    "mmpretrain": "cls/van_b2_in1k",
    "mmdet": "det/mask_rcnn_van_b2_1x_coco",
    "mmseg": "seg/upernet_van_b2",
    "mmpose": "pose/simplebaseline_van_b2_coco_256x192",
}
LISTED = 8  # dropped options that a line names


def swap_backbone(cfg: Config, arch: str) -> list[str]:
    """Make VAN the backbone of a config, in place, and make right what depends on it.

    What the old backbone gives is found by running it; its channels are then looked for in what reads it: the neck, or
    without one the heads. Each level becomes the VAN stage of its stride. Everything else stays as it is.

    Args:
        cfg (Config): Of an experiment with one image backbone.
        arch (str): Size of the VAN: ``'b0'`` to ``'b6'``.

    Returns:
        list[str]: What changed, a line each; empty if the backbone was this VAN already.

    Raises:
        UserError: If the backbone can't be replaced; the message says why.
    """
    try:
        sizes = get_arch(arch)
    except ValueError as error:
        raise UserError(f"--backbone: {error}") from error
    changes, backbone = [], only_backbone(cfg)
    init_default_scope(cfg.default_scope)
    if is_van(backbone, cfg.default_scope):
        if backbone.arch == arch:
            return []
        indices = tuple(backbone.get("out_indices", range(4)))
        old = [get_arch(backbone.arch)["embed_dims"][index] for index in indices]
        new_backbone = ConfigDict(copy.deepcopy(backbone), arch=arch)
    else:
        for key in ("plugins", "dcn"):
            if backbone.get(key):
                raise UserError(
                    f"--backbone: {backbone.type} has {key}, which are of its own stages; VAN has no such thing"
                )
        shared = cfg.model.get("roi_head", {}).get("shared_head")
        if shared:
            raise UserError(f"--backbone: roi_head.shared_head ({shared.type}) is the last stage of {backbone.type}")
        levels = outputs(backbone)
        old, indices = [channels for channels, _ in levels], stages_of([stride for _, stride in levels])
        changes += adapt(cfg.model, levels[-1][1], STRIDES[indices[-1]])
        new_backbone = ConfigDict(type="van_mm.VAN", arch=arch, out_indices=indices)
        new_backbone.update({key: backbone[key] for key in INHERITED if key in backbone})
        if backbone.get("norm_cfg", {}).get("type") == "SyncBN":
            new_backbone.norm_cfg = dict(type="SyncBN", requires_grad=True)
    new = [sizes["embed_dims"][index] for index in indices]

    changes.insert(0, f"model.backbone: {backbone.type} is VAN-{arch.upper()}, out_indices={tuple(indices)}")
    if cfg.model.pop("pretrained", None) or backbone.get("init_cfg"):
        weights = f"{arch}_in1k" if f"{arch}_in1k" in TABLE else f"{arch}_in22k"
        new_backbone.init_cfg = dict(type="Pretrained", checkpoint=f"{SCHEME}{weights}")
        changes.append(f"model.backbone.init_cfg: {SCHEME}{weights}")
    dropped = sorted(set(backbone) - set(new_backbone) - {"init_cfg", "type", "depth"})
    if dropped:
        more = f" and {len(dropped) - LISTED} more" if len(dropped) > LISTED else ""
        changes.append(f"dropped, of {backbone.type} only: {', '.join(dropped[:LISTED])}{more}")
    cfg.model.backbone = new_backbone
    for path, node in readers(cfg.model):
        changes += refit(node, path, old, new)
    return changes


@torch.no_grad()
def check_swapped(cfg: Config) -> None:
    """Build the model with random weights, and run it on an image.

    Raises:
        UserError: If it does not build or run.
    """
    from van_mm.launch import build_random

    model = build_random(Config(copy.deepcopy(cfg._cfg_dict)))
    width, height = cfg.get("codec", {}).get("input_size") or (224, 224)
    image, size = torch.zeros(1, 3, height, width), (height, width)
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    try:
        if cfg.default_scope == "mmdet":
            from mmdet.structures import DetDataSample

            model.predict(image, [DetDataSample(metainfo=meta)])
        elif cfg.default_scope == "mmseg":
            model.encode_decode(image, [meta])
        elif cfg.default_scope == "mmpose":
            model.head(model.extract_feat(image))
        else:
            model.predict(image)
    except Exception as error:
        raise UserError(f"--backbone: the model does not run with VAN: {type(error).__name__}: {error}") from error


def only_backbone(cfg: Config) -> ConfigDict:
    """The config's one backbone.

    Raises:
        UserError: If it has none, or several.
    """
    found = [node["backbone"] for node in dicts(cfg.model) if isinstance(node.get("backbone"), dict)]
    if len(found) != 1 or "backbone" not in cfg.model:
        raise UserError(f"--backbone takes configs with one model.backbone; this one has {len(found)} backbones")
    return found[0]


def is_van(backbone: ConfigDict, scope: str) -> bool:
    """Whether a backbone is this package's VAN; mmpretrain has one of that name."""
    return backbone.type in (VAN, "van_mm.VAN") or (backbone.type == "VAN" and scope != "mmpretrain")


@torch.no_grad()
def outputs(backbone: ConfigDict, side: int = 256) -> list[tuple[int, int]]:
    """Channels and stride of each level that a backbone gives for a square image; of a vector, the stride is 0.

    Raises:
        UserError: If it does not build or run, or gives no maps.
    """
    cfg = copy.deepcopy(backbone)
    for node in dicts(cfg):
        for key in ("init_cfg", "pretrained"):
            node.pop(key, None)
    try:
        model = MODELS.build(cfg)
        model.eval()  # which returns nothing where a backbone of MMLab has its own train()
        maps = model(torch.zeros(1, 3, side, side))
    except Exception as error:
        raise UserError(
            f"--backbone: {backbone.type} does not run on an image: {type(error).__name__}: {error}"
        ) from error
    maps = maps if isinstance(maps, (list, tuple)) else [maps]
    if not all(isinstance(one, torch.Tensor) and one.dim() in (2, 4) for one in maps):
        raise UserError(f"--backbone: {backbone.type} gives no feature maps of an image")
    return [(one.shape[1], side // one.shape[-1] if one.dim() == 4 else 0) for one in maps]


def adapt(model: ConfigDict, old: int, new: int) -> list[str]:
    """Make up for another stride of the last level: pool where there was a vector, upsample where a key point head took
    a finer map. What changed, a line each."""
    if old == 0 and not model.get("neck"):
        model.neck = ConfigDict(type="GlobalAveragePooling")
        return ["model.neck: GlobalAveragePooling, in place of a vector"]
    head = model.get("head", {})
    if new > old > 0 and "deconv_out_channels" in head and not head.deconv_out_channels:
        steps = (new // old).bit_length() - 1  # as SimpleBaseline's, each doubles the map
        head.update(deconv_out_channels=(256,) * steps, deconv_kernel_sizes=(4,) * steps)
        return [f"model.head.deconv_out_channels: {head.deconv_out_channels}, as the map is {new // old} times smaller"]
    return []


def stages_of(strides: list[int]) -> tuple[int, ...]:
    """The VAN stage for each level: that of its stride; of dilated backbones, whose strides repeat, the last ones.

    Raises:
        UserError: If there are more levels than stages.
    """
    if len(strides) > len(STRIDES):
        raise UserError(f"--backbone: the old one gives {len(strides)} levels, VAN has {len(STRIDES)}")
    if len(strides) > 1 and all(stride in STRIDES for stride in strides) and len(set(strides)) == len(strides):
        return tuple(STRIDES.index(stride) for stride in strides)
    return tuple(range(len(STRIDES) - len(strides), len(STRIDES)))


def readers(model: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """What reads the backbone: the first neck that has channels, or without one the heads."""

    def nodes(key: str) -> list[tuple[str, ConfigDict]]:
        """One dict, or each of several."""
        value, path = model.get(key) or [], f"model.{key}"
        return [(path, value)] if isinstance(value, dict) else [(f"{path}.{i}", one) for i, one in enumerate(value)]

    for path, neck in nodes("neck"):
        if "in_channels" in neck:
            return [(path, neck)]
    return [node for key in model if key.endswith("head") for node in nodes(key)]


def refit(node: ConfigDict, path: str, old: list[int], new: list[int]) -> list[str]:
    """Put the new channels for the old ones; what changed, a line each."""
    changes = []
    for key in [key for key in node if key.endswith("in_channels")]:
        value, index = node[key], node.get("in_index", -1)
        if isinstance(value, (list, tuple)):
            picked = index if isinstance(index, (list, tuple)) else range(len(old))
            if list(value) == [old[i] for i in picked]:
                node[key] = [new[i] for i in picked]
        elif key == "in_channels" and isinstance(index, int) and value == old[index]:
            node[key] = new[index]
        elif key != "in_channels" and value in old:
            node[key] = new[old.index(value)]
        if node[key] != value:
            changes.append(f"{path}.{key}: {value} is {node[key]}")
    return changes


def paper_optimizer(cfg: Config) -> list[str]:
    """Put the optimiser that the paper trains this task with (section 4) in place of a config's own.

    Returns:
        list[str]: What changed, a line each.
    """
    own, cfg.optim_wrapper = cfg.optim_wrapper, get_config(OPTIMIZERS[cfg.default_scope]).optim_wrapper
    return [f"optim_wrapper: {own.optimizer.type}, lr {own.optimizer.lr} is that of {OPTIMIZERS[cfg.default_scope]}"]
