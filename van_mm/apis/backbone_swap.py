"""Replace the backbone of any config in the four codebases by VAN."""

import copy

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor

from van_mm.apis.backbone_swap_rules import (
    MAX_LISTED_OPTIONS,
    STAGE_STRIDES,
    adapt_to_stride,
    check_replaceable,
    drop_layer_decay,
    find_backbone_parent,
    is_van,
    make_van_cfg,
    match_stages,
    probe_levels,
    update_in_channels,
    use_van_weights,
)
from van_mm.apis.build import build_trial_model, get_image_size, run_dummy_forward
from van_mm.apis.configs import get_config
from van_mm.models.backbones.van import ARCH_ALIASES, VAN, format_arch, get_arch_settings
from van_mm.utils.codebases import CODEBASES
from van_mm.utils.config_walk import iter_dicts, to_pair
from van_mm.utils.errors import UserError

# Configs with the paper's optimizer, by a type in the model or data set, or else by codebase. The first match counts.
PAPER_OPTIMIZER_CONFIGS = {
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
NO_CPU_OPERATOR = "implementation for device cpu not found."  # the end of mmcv's message about an operator


def swap_backbone(cfg: Config, arch: str) -> list[str]:
    """Replace the backbone of a config by VAN, in place, and update everything that depends on the backbone.

    The old backbone is run once to find its feature levels. Each level becomes the VAN stage of the same stride, and
    necks and heads get VAN's channels. VAN starts from its ImageNet weights, with the image normalization that they
    need. A classifier that starts from random weights still does. All other settings stay unchanged. The new model is
    built and run once. :mod:`van_mm.apis.backbone_swap_rules` contains the steps.

    Args:
        cfg (Config): Config of an experiment in one of the four codebases, with one image backbone.
        arch (str): Size of the VAN, ``'b0'`` to ``'b6'``, one of its other names, such as ``'tiny'``, or
            ``'lsknet_t'`` or ``'lsknet_s'``.

    Returns:
        list[str]: The changes, one line each. The list is empty if the backbone was this VAN already.

    Raises:
        UserError: If the backbone cannot be replaced. The message gives the reason, and the config is unchanged.

    Example:
        >>> from van_mm import get_config, swap_backbone
        >>> cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco")
        >>> changes = swap_backbone(cfg, "b2")
        >>> changes[0]
        'model.backbone: ResNet -> VAN-B2, out_indices=(0, 1, 2, 3)'
        >>> cfg.model.neck.in_channels
        [64, 128, 320, 512]
    """
    if cfg.get("default_scope") not in CODEBASES:
        scope = cfg.get("default_scope")
        raise UserError(f"--backbone: default_scope is {scope!r}. Use a config of {', '.join(CODEBASES)}")
    draft = Config(copy.deepcopy(cfg._cfg_dict))
    init_default_scope(cfg.default_scope)
    changes = replace_backbone(draft, arch)
    if changes:
        changes += check_swapped_model(draft)
        for key, value in draft.items():
            if cfg.get(key) != value:
                cfg[key] = value
    return changes


def replace_backbone(cfg: Config, arch: str) -> list[str]:
    """Replace the backbone as :func:`swap_backbone` does, but do not run the new model.

    Args:
        cfg (Config): Config of an experiment, changed in place, even if an error is raised.
        arch (str): Size of the VAN.

    Returns:
        list[str]: The changes, one line each.

    Raises:
        UserError: If the size is unknown, or if the backbone cannot be replaced.
    """
    arch = ARCH_ALIASES.get(arch.lower(), arch.lower())
    try:
        widths = get_arch_settings(arch)["embed_dims"]
    except ValueError as error:
        raise UserError(f"--backbone: {error}") from error
    path, part = find_backbone_parent(cfg.model)
    old_backbone = part.backbone
    if is_van(old_backbone, cfg.default_scope):
        attention = get_arch_settings(arch).get("lka_cfg", {}).get("type", "LKA")
        is_same = old_backbone.get("lka_cfg", {}).get("type", attention) == attention
        if old_backbone.arch == arch and is_same:
            return []
        indices = tuple(old_backbone.get("out_indices", range(4)))
        old = [get_arch_settings(old_backbone.arch)["embed_dims"][index] for index in indices]
        backbone, changes = ConfigDict(copy.deepcopy(old_backbone), arch=arch), []
        if not is_same:  # weights of the new backbone are not of this attention module
            del backbone["lka_cfg"]
    else:
        levels = probe_levels(old_backbone, to_pair(old_backbone.get("img_size")) or get_image_size(cfg))
        old, indices = [channels for channels, _ in levels], match_stages([stride for _, stride in levels])
        check_replaceable(cfg, path, part, levels, indices)
        backbone = make_van_cfg(old_backbone, arch, indices)
        changes = adapt_to_stride(part, path, levels[-1][1], indices[-1])
        if max(indices) < len(STAGE_STRIDES) - 1:
            cfg.find_unused_parameters = True
            changes.append("find_unused_parameters: True, because VAN's last stage is not used")
    new = [widths[index] for index in indices]

    changes.insert(0, f"{path}.backbone: {old_backbone.type} -> {format_arch(arch)}, out_indices={indices}")
    changes += use_van_weights(cfg, path, part, backbone, f"{arch}_in1k")
    dropped = sorted(set(old_backbone) - set(backbone) - {"init_cfg", "type", "depth"})
    if dropped:
        hidden = len(dropped) - MAX_LISTED_OPTIONS
        rest = f" and {hidden} more" if hidden > 0 else ""
        changes.append(f"dropped, of {old_backbone.type} only: {', '.join(dropped[:MAX_LISTED_OPTIONS])}{rest}")
    part.backbone = backbone
    return [*changes, *update_in_channels(part, path, old, new), *drop_layer_decay(cfg)]


def check_swapped_model(cfg: Config) -> list[str]:
    """Build the model of a config with VAN and run it on random images.

    Args:
        cfg (Config): Config from :func:`replace_backbone`. It is changed if the model needs contiguous feature maps.

    Returns:
        list[str]: The change that the model needed, or the reason why it could not be run on the CPU, one line each.

    Raises:
        UserError: If the model does not build or run, or if its heatmaps differ in size from those of the codec.
    """
    model, (path, part) = build_trial_model(cfg), find_backbone_parent(cfg.model)
    van = next(module for module in model.modules() if isinstance(module, VAN))
    # Two images, because heads that reshape feature maps accept any memory format for one image. Some detectors accept
    # only one.
    options = dict(batch=1 if cfg.default_scope == "mmdet" else 2, boxes=8)
    try:
        try:
            outputs = run_dummy_forward(model, cfg, **options)
        except RuntimeError as error:
            if "contiguous" not in str(error):
                raise
            van.contiguous = True
            outputs = run_dummy_forward(model, cfg, **options)
    except Exception as error:
        if str(error).rstrip().endswith(NO_CPU_OPERATOR):
            return [f"not tried: {str(error).strip()}"]
        raise UserError(f"--backbone: the model does not run with VAN: {type(error).__name__}: {error}") from error
    codec = cfg.get("codec", {})
    expected = codec.get("heatmap_size") if isinstance(codec, dict) else None  # width and height
    actual = tuple(outputs.shape[:1:-1]) if isinstance(outputs, Tensor) and outputs.dim() == 4 else None
    if expected and actual and actual != tuple(expected):
        raise UserError(
            f"--backbone: heat maps of VAN are {actual}, and those of codec.heatmap_size {tuple(expected)}. Set "
            "codec.heatmap_size to VAN's size in a copy of the config"
        )
    if not van.contiguous or part.backbone.get("contiguous"):
        return []
    part.backbone.contiguous = True
    return [f"{path}.backbone.contiguous: True, because an operator behind the backbone requires it"]


def use_paper_optimizer(cfg: Config) -> list[str]:
    """Replace the optimizer of a config by the paper's for the same task (section 4). Clipping and precision stay.

    Args:
        cfg (Config): Config of an experiment, changed in place. Besides the optimizer, its parameter-wise settings and
            the batch size for ``--auto-scale-lr`` become the paper's.

    Returns:
        list[str]: The changes, one line each.
    """
    types = {node.get("type") for node in iter_dicts([cfg.model, cfg.train_dataloader.dataset])}
    source = next(name for key, name in PAPER_OPTIMIZER_CONFIGS.items() if key in types or key == cfg.default_scope)
    paper, wrapper = get_config(source), cfg.optim_wrapper
    old, new = wrapper.optimizer, paper.optim_wrapper.optimizer
    for key in ("optimizer", "constructor", "paramwise_cfg"):
        wrapper.pop(key, None)
        if key in paper.optim_wrapper:
            wrapper[key] = paper.optim_wrapper[key]
    batch = paper.auto_scale_lr.base_batch_size
    cfg.auto_scale_lr = dict(cfg.get("auto_scale_lr", {}), base_batch_size=batch)
    return [
        f"optim_wrapper.optimizer: {old.type}, lr {old.get('lr')} -> {new.type}, lr {new.lr}, from {source}, for "
        f"batches of {batch}"
    ]
