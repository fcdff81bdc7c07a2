"""``--demo``: any config of the suite on a small generated data set, on whatever machine is at hand.

:func:`demo_config` rewrites a config, :func:`make_demo_data` (``data.py``) draws the data set it then names.
"""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

from .data import WRITERS, make_demo_data

__all__ = ["DEMO_DEFAULTS", "WRITERS", "demo_config", "dicts", "make_demo_data", "rooted"]

# By codebase: what image sizes are multiplied by, images a batch, optimiser steps, the learning rate that suits so
# short a run from random weights, and regions that second stages of detectors sample an image. A config's own
# ``demo = dict(...)`` goes before these.
DEMO_DEFAULTS = {
    "mmpretrain": dict(scale=64 / 224, batch_size=16, iters=320, lr=1e-3),
    "mmdet": dict(batch_size=4, iters=450, lr=3e-4, rois=32),  # for the scale see SIDE
    "mmseg": dict(scale=0.125, batch_size=6, iters=180, lr=8e-4),
    "mmpose": dict(scale=0.5, batch_size=8, iters=260, lr=1e-3),
}
WARMUP = 0.1  # share of the demo's steps in which the learning rate rises

SIDE = 160  # of detectors' images, the longer one in testing
SGD = 30  # how much greater its learning rates are than Adam's
# The size arguments of the codebases' transforms, data preprocessors, codecs, heads and test settings.
SIZES = {"scale", "scales", "input_size", "heatmap_size", "in_featuremap_size", "img_scale", "border"}
CROPS = {"crop_size", "size", "stride", "random_size_range"}  # multiples of 32, which the paddings of batches count on
SIZED = {  # what has them, beside all that has a crop_size or input_size
    "Resize", "RandomResize", "RandomChoiceResize", "ResizeEdge", "ResizeShortestEdge", "RandomCrop",
    "RandomResizedCrop", "CenterCrop", "BatchFixedSizePad", "SegDataPreProcessor", "Mosaic", "MixUp", "CachedMosaic",
    "CachedMixUp", "RandomAffine", "Pad", "BatchSyncRandomResize",
}  # fmt: skip


def dicts(node) -> Iterator[ConfigDict]:
    """Every dict in a config, outermost first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from dicts(child)


def _scaled(size, factor: float, unit: int = 1):
    """A size in pixels, or any nesting of them, times ``factor``, rounded to a multiple of ``unit`` that is not 0."""
    if isinstance(size, (list, tuple)):
        return type(size)(_scaled(side, factor, unit) for side in size)
    return unit * max(1, round(abs(size) * factor / unit)) * (-1 if size < 0 else 1)


def rooted(node, root: str):
    """``node`` with ``root`` in place of the leading ``data`` of every path in it."""
    if isinstance(node, str):
        return f"{root}/{node[5:]}" if node.startswith("data/") else node
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = rooted(value, root)
    elif isinstance(node, (list, tuple)):
        return type(node)(rooted(value, root) for value in node)
    return node


def demo_config(cfg: Config, root: str = "data/demo", iters: int | None = None) -> list[str]:
    """Turn a config of the suite into its demo, in place.

    Changed is what makes it feasible: data root, image and crop sizes, batch size, schedule length with the
    learning rate and the averaging that go with it, workers, and no pretrained weights.

    Args:
        cfg (Config): Of an experiment; ``demo = dict(scale=, batch_size=, iters=, lr=)`` in it is honoured.
        root (str): Folder of the generated data sets. Defaults to 'data/demo'.
        iters (int, optional): Optimiser steps instead of the demo's own.

    Returns:
        list[str]: What was changed, a line each.

    Raises:
        ValueError: If ``iters`` is not positive or the config is of no known codebase.
    """
    if cfg.get("default_scope") not in DEMO_DEFAULTS:
        raise ValueError(
            f"--demo knows {', '.join(DEMO_DEFAULTS)}; this config's default_scope is {cfg.get('default_scope')!r}"
        )
    demo = {**DEMO_DEFAULTS[cfg.default_scope], **cfg.get("demo", {})}
    if "scale" not in demo:
        sizes = [max(node.scale) for node in dicts(cfg.test_dataloader) if node.get("type") == "Resize"]
        demo["scale"] = SIDE / max(sizes, default=1333)
    iters = demo["iters"] if iters is None else iters
    if iters < 1:
        raise ValueError(f"--demo-iters must be at least 1, got {iters}")

    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        if cfg.get(name):
            cfg[name] = rooted(cfg[name], str(root).rstrip("/"))
    loaders = [cfg[name] for name in ("train_dataloader", "val_dataloader", "test_dataloader") if cfg.get(name)]

    seen = set()  # dataloaders can share one dict
    for node in dicts([loaders, cfg.get("tta_pipeline"), cfg.model]):
        if id(node) not in seen and (node.get("type") in SIZED or {"crop_size", "input_size"} & set(node)):
            for key in (SIZES | CROPS) & set(node):
                if node[key] is not None:
                    node[key] = _scaled(node[key], demo["scale"], 32 if key in CROPS else 1)
        seen.add(id(node))
        if node.get("type") == "RandomSampler" and node.add_gt_as_proposals:  # the first stage costs nothing
            node.num = min(node.num, demo["rois"])
        if "oversample_ratio" in node:  # points at which mask losses are taken: so many for the area of the image
            node.num_points = round(node.num_points * demo["scale"] ** 2)
        init_cfg = node.get("init_cfg")
        pretrained = isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained"
        if pretrained and not Path(init_cfg["checkpoint"]).is_file():
            node["init_cfg"] = None  # nothing is downloaded; a file of the user's own is kept
    cfg.model.pop("pretrained", None)
    cfg.load_from = None

    for loader in loaders:
        loader.num_workers, loader.persistent_workers = 0, False
        loader.pop("prefetch_factor", None)
    cfg.train_dataloader.batch_size = demo["batch_size"]

    total = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    _shorten(cfg, total, iters)
    optimizer = cfg.optim_wrapper.optimizer
    optimizer.lr = min(optimizer.lr, SGD * demo["lr"]) if optimizer.type == "SGD" else demo["lr"]
    for name, options in cfg.optim_wrapper.get("paramwise_cfg", {}).get("custom_keys", {}).items():
        if name == "backbone" and "lr_mult" in options:  # the slower rate is for pretrained weights
            options.lr_mult = 1.0
    for node in cfg.get("custom_hooks", []):
        if node["type"] == "EMAHook":  # as many steps averaged, as a share of the run, would be none
            node["momentum"] = max(node.get("momentum", 0), min(0.5, 10 / iters))
    cfg.setdefault("randomness", ConfigDict()).seed = 0
    return [
        f"data: generated, in {root}",
        f"image sizes: x {demo['scale']:.3g}",
        f"batch size: {demo['batch_size']}, no workers",
        f"schedule: {iters} iterations, learning rate {optimizer.lr:g}, the backbone's too",
        "weights: random (nothing is downloaded)",
    ]


def _shorten(cfg: Config, total: int, iters: int) -> None:
    """Squeeze the schedule of ``total`` epochs or iterations into ``iters`` iterations."""
    cfg.train_cfg = ConfigDict(type="IterBasedTrainLoop", max_iters=iters, val_interval=iters)
    warmup = round(WARMUP * iters)
    schedulers = cfg.get("param_scheduler", [])
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    cfg.param_scheduler = []
    for scheduler in schedulers:
        warms_up = scheduler.type == "LinearLR" and scheduler.get("begin", 0) == 0
        if warms_up and not warmup:
            continue
        cfg.param_scheduler.append(scheduler)
        scheduler.by_epoch = False
        scheduler.pop("convert_to_iter_based", None)
        scheduler.pop("T_max", None)
        if warms_up:
            scheduler.begin, scheduler.end = 0, warmup
            continue
        scheduler.begin = warmup if scheduler.get("begin", 0) else 0
        scheduler.end = iters
        if "milestones" in scheduler:
            scheduler.milestones = [max(1, round(step / total * iters)) for step in scheduler.milestones]
    hooks = cfg.default_hooks
    hooks.logger.update(interval=10, log_metric_by_epoch=False)
    hooks.checkpoint.update(by_epoch=False, interval=iters)
    cfg.log_processor = ConfigDict(cfg.get("log_processor", {}), by_epoch=False)
