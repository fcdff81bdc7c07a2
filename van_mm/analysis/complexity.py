"""Count the parameters and multiply-adds of a config's model, on the meta device if the model supports it."""

import copy
import math

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from van_mm.apis.build import build_trial_model, make_det_samples, run_dummy_forward

aten = torch.ops.aten
# Number of regions that the second stage of a detector processes, as in the counts of MMDetection 2 and Swin.
BOX_REGIONS, MASK_REGIONS = 1000, 100


def count_conv_flops(x, weight, bias, stride, padding, dilation, transposed, *_, out_shape, **__) -> int:
    """Return the FLOPs of a convolution, 2 per multiply-add. Adding the bias counts as one multiply-add per output."""
    return conv_flop_count(x, weight, out_shape, transposed) + (0 if bias is None else 2 * math.prod(out_shape))


def count_norm_flops(x, *_, **__) -> int:
    """Return the FLOPs of BatchNorm, 2 multiply-adds per element as in OpenMMLab's counters."""
    return 4 * math.prod(x)


FLOP_COUNTERS = {aten.convolution: count_conv_flops, aten.native_batch_norm: count_norm_flops}


def build_on_meta(cfg: Config) -> nn.Module:
    """Build a config's model in eval mode on the meta device, where tensors have shapes but no data."""
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        return MODELS.build(copy.deepcopy(cfg.model)).eval()  # some constructors write into their config


def count_complexity(cfg: Config, size: tuple[int, int] | None = None) -> tuple[int, int | None]:
    """Count the parameters of a config's model, and the multiply-adds of its inference for one image.

    The rules are those of OpenMMLab's counters, with which the paper's numbers were produced. Convolutions and matrix
    products count, with one multiply-add per output for a convolution's bias, and BatchNorm counts two multiply-adds
    per element. Activations, pooling, interpolation and element-wise products do not count, and neither do auxiliary
    heads, because only training runs them. Every stage of a two-stage detector counts 1000 boxes and 100 masks.

    Args:
        cfg (Config): A config of one of the four codebases.
        size (tuple[int, int], optional): Height and width of the image. Without it, only parameters are counted.

    Returns:
        tuple[int, int | None]: Parameters (auxiliary heads included), and multiply-adds or None.

    Example:
        >>> count_complexity(van_mm.get_config("cls/van_b0_in1k"), (224, 224))
        (4105800, 876899712)
    """
    counter = FlopCounterMode(display=False, custom_mapping=FLOP_COUNTERS)
    try:
        model = build_on_meta(cfg)
        if size is not None:
            with counter, torch.no_grad():
                forward_all_parts(model, torch.empty(1, 3, *size, device="meta"))
    except Exception:  # some transformers read values of tensors, and some heads need more than feature maps
        counter = FlopCounterMode(display=False, custom_mapping=FLOP_COUNTERS)
        model = build_trial_model(cfg).requires_grad_(False)
        if size is not None:
            with counter:
                run_dummy_forward(model, cfg, size)
    params = sum(p.numel() for p in model.parameters())
    return params, counter.get_total_flops() // 2 if size else None


def forward_all_parts(model: nn.Module, images: Tensor) -> None:
    """Run every part of a model that inference uses, without the operations on boxes between the stages of a detector.

    Args:
        model (nn.Module): A model of one of the four codebases.
        images (Tensor): Images (N, 3, H, W), normalized.
    """
    if not hasattr(model, "roi_head"):
        model(images, make_det_samples(images) if type(model).__module__.startswith("mmdet.") else None, mode="tensor")
        return
    feats = model.extract_feat(images)
    model.rpn_head(feats)
    heads = model.roi_head
    for number, extractor, head in (
        (BOX_REGIONS, heads.bbox_roi_extractor, heads.bbox_head),
        *([(MASK_REGIONS, heads.mask_roi_extractor, heads.mask_head)] if heads.with_mask else []),
    ):
        stages = zip(extractor, head, strict=True) if isinstance(head, nn.ModuleList) else [(extractor, head)]
        for pool, stage in stages:
            height, width = pool.roi_layers[0].output_size
            stage(images.new_empty(number, pool.out_channels, height, width))
