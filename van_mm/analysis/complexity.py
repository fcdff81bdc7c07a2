"""Parameters and multiply-adds of a config's model, counted without computing anything where its parts let that be."""

import copy
import math

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from van_mm import ops
from van_mm.trial import det_samples, trial, trial_model

aten = torch.ops.aten
# Regions of a two-stage detector, as MMDetection 2's and Swin's counts have them.
BOX_REGIONS, MASK_REGIONS = 1000, 100


def conv_flops(x, weight, bias, stride, padding, dilation, transposed, *_, out_shape, **__) -> int:
    """Two for each multiply-add of a convolution, its bias counted as one."""
    return conv_flop_count(x, weight, out_shape, transposed) + (0 if bias is None else 2 * math.prod(out_shape))


def norm_flops(x, *_, **__) -> int:
    """Two multiply-adds for each element: BatchNorm as MMLab's counters have it."""
    return 4 * math.prod(x)


COUNTERS = {aten.convolution: conv_flops, aten.native_batch_norm: norm_flops}


def build_on_meta(cfg: Config) -> nn.Module:
    """The config's model, in eval mode, on torch's meta device: shapes, but no memory and no arithmetic."""
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        return MODELS.build(copy.deepcopy(cfg.model)).eval()  # some constructors write into their config


def complexity(cfg: Config, size: tuple[int, int] | None = None) -> tuple[int, int | None]:
    """Count what a config's model has and what one image costs it.

    Counted, as by MMLab's own counters, which the paper's figures come from, are the multiply-adds of convolutions
    and matrix products, one for a convolution's bias and two for an element that BatchNorm passes. Activations,
    pooling, interpolation and element-wise products are not, nor are auxiliary heads, which only training runs.
    Two-stage detectors are counted at 1000 boxes and 100 masks, in each of their stages.

    Args:
        cfg (Config): Of any of the four codebases.
        size (tuple[int, int], optional): Height and width of the image. Without it only parameters are counted.

    Returns:
        tuple[int, int | None]: Parameters (heads and auxiliary heads included), multiply-adds.
    """
    counter = FlopCounterMode(display=False, custom_mapping=COUNTERS)
    try:
        model = build_on_meta(cfg)
        if size is not None:
            with counter, torch.no_grad():
                forward(model, torch.empty(1, 3, *size, device="meta"))
    except Exception:  # of transformers that look at values, and heads that want more than maps
        counter = FlopCounterMode(display=False, custom_mapping=COUNTERS)
        model = trial_model(cfg).requires_grad_(False)
        if size is not None:
            with ops.off(), counter:  # nothing would be seen of what the kernels compute
                trial(model, cfg, size)
    params = sum(p.numel() for p in model.parameters())
    return params, counter.get_total_flops() // 2 if size else None


def forward(model: nn.Module, images: Tensor) -> None:
    """One pass through all that inference runs, without the box arithmetic between the parts of a detector."""
    if not hasattr(model, "roi_head"):
        model(images, det_samples(images) if type(model).__module__.startswith("mmdet.") else None, mode="tensor")
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
