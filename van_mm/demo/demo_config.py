"""Change a config so that it trains and tests on a small generated data set within minutes."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from van_mm.utils.config_walk import iter_dicts, replace_data_root

# Defaults of each codebase; all values are our choice. ``scale`` multiplies image sizes, ``batch_size`` is per process,
# ``iters`` counts optimizer steps, ``lr`` suits a short run from random weights, and ``rois`` limits the regions per
# image that the second stage of a detector samples. ``demo = dict(...)`` in a config overrides them.
DEMO_DEFAULTS = {
    "mmpretrain": dict(scale=64 / 224, batch_size=16, iters=320, lr=1e-3),
    "mmdet": dict(batch_size=4, iters=450, lr=3e-4, rois=32),  # the scale follows from DETECTION_SIDE
    "mmseg": dict(scale=0.125, batch_size=6, iters=180, lr=8e-4),
    "mmpose": dict(scale=0.5, batch_size=8, iters=260, lr=1e-3),
}
WARMUP_SHARE = 0.1  # share of the steps that warm up; our choice
DETECTION_SIDE = 160  # longer side of a detector's test images, in pixels; our choice
SGD_LR_FACTOR = 30  # limits the learning rate of SGD to this multiple of ``lr``, which suits Adam; our choice
# Arguments that are sizes in pixels, in transforms, data preprocessors, codecs, heads and test settings.
SIZE_KEYS = {"scale", "scales", "input_size", "heatmap_size", "in_featuremap_size", "img_scale", "border", "out_shape"}
# Sizes that are rounded to a multiple of 32, the largest stride of the models.
CROP_KEYS = {"crop_size", "size", "stride", "random_size_range"}
# The classes whose sizes are scaled. Any other dict is scaled only if it has a crop_size or an input_size.
SIZED_TYPES = {
    "Resize", "RandomResize", "RandomChoiceResize", "ResizeEdge", "ResizeShortestEdge", "RandomCrop",
    "RandomResizedCrop", "CenterCrop", "BatchFixedSizePad", "SegDataPreProcessor", "Mosaic", "MixUp", "CachedMosaic",
    "CachedMixUp", "RandomAffine", "Pad", "BatchSyncRandomResize", "MSPNHead",
}  # fmt: skip


def scale_size(size, factor: float, unit: int = 1):
    """Multiply a size, or a nested sequence of sizes, by ``factor``.

    Args:
        size (int | Sequence): Pixels. Negative sizes stay negative.
        factor (float): The factor.
        unit (int): Results are rounded to a nonzero multiple of it. Defaults to 1.

    Returns:
        int | Sequence: The scaled sizes, in the same nesting.
    """
    if isinstance(size, (list, tuple)):
        return type(size)(scale_size(side, factor, unit) for side in size)
    return unit * max(1, round(abs(size) * factor / unit)) * (-1 if size < 0 else 1)


def apply_demo(cfg: Config, root: str = "data/demo", iters: int | None = None) -> list[str]:
    """Turn a config into its demo, in place.

    The data root, the image and crop sizes, the batch size, the length of the schedule, the learning rate, the momentum
    of weight averaging and the number of workers are changed. Pretrained weights are removed unless they are a file.

    Args:
        cfg (Config): An experiment. ``demo = dict(scale=, batch_size=, iters=, lr=, rois=)`` in it overrides the
            defaults of its codebase, ``DEMO_DEFAULTS``.
        root (str): Folder of the generated data sets. Defaults to 'data/demo'.
        iters (int, optional): Number of optimizer steps. Defaults to the demo's own.

    Returns:
        list[str]: The changes, one line for each.

    Raises:
        ValueError: If ``iters`` is not positive, or the config belongs to none of the four codebases or does not train.

    Example:
        >>> cfg = van_mm.get_config("seg/upernet_van_b2")
        >>> changes = apply_demo(cfg)
        >>> changes[1], cfg.train_cfg.max_iters
        ('image sizes: x 0.125', 180)
    """
    if cfg.get("default_scope") not in DEMO_DEFAULTS:
        raise ValueError(
            f"this config's default_scope is {cfg.get('default_scope')!r}. "
            f"--demo needs one of {', '.join(DEMO_DEFAULTS)}"
        )
    if not cfg.get("train_dataloader"):
        raise ValueError("this config has no train_dataloader. --demo needs a config that trains")
    demo = {**DEMO_DEFAULTS[cfg.default_scope], **cfg.get("demo", {})}
    if "scale" not in demo:
        sizes = [max(node.scale) for node in iter_dicts(cfg.test_dataloader) if node.get("type") == "Resize"]
        demo["scale"] = DETECTION_SIDE / max(sizes, default=1333)
    iters = demo["iters"] if iters is None else iters
    if iters < 1:
        raise ValueError(f"--demo-iters must be at least 1, got {iters}")

    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        if cfg.get(name):
            cfg[name] = replace_data_root(cfg[name], str(root).rstrip("/"))
    loaders = [cfg[name] for name in ("train_dataloader", "val_dataloader", "test_dataloader") if cfg.get(name)]

    scaled = set()  # data loaders can share dicts, which must be scaled once
    for node in iter_dicts([loaders, cfg.get("tta_pipeline"), cfg.model]):
        if id(node) not in scaled and (node.get("type") in SIZED_TYPES or {"crop_size", "input_size"} & set(node)):
            for key in (SIZE_KEYS | CROP_KEYS) & set(node):
                if node[key] is not None:
                    node[key] = scale_size(node[key], demo["scale"], 32 if key in CROP_KEYS else 1)
        scaled.add(id(node))
        # Only samplers of second stages add the ground truth. The sampler of an RPN is cheap and stays as it is.
        if node.get("type") == "RandomSampler" and node.add_gt_as_proposals:
            node.num = min(node.num, demo["rois"])
        if "oversample_ratio" in node:  # the mask losses sample num_points points, in proportion to the image's area
            node.num_points = round(node.num_points * demo["scale"] ** 2)
        init_cfg = node.get("init_cfg")
        pretrained = isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained"
        if pretrained and not Path(init_cfg["checkpoint"]).is_file():
            node["init_cfg"] = None  # a demo downloads nothing, but uses a file that exists
    cfg.model.pop("pretrained", None)
    cfg.load_from = None

    for loader in loaders:
        loader.num_workers, loader.persistent_workers = 0, False
        loader.pop("prefetch_factor", None)
    cfg.train_dataloader.batch_size = demo["batch_size"]

    total = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    shorten_schedule(cfg, total, iters)
    optimizer = cfg.optim_wrapper.optimizer
    optimizer.lr = min(optimizer.lr, SGD_LR_FACTOR * demo["lr"]) if optimizer.type == "SGD" else demo["lr"]
    for name, options in cfg.optim_wrapper.get("paramwise_cfg", {}).get("custom_keys", {}).items():
        if name == "backbone" and "lr_mult" in options:  # a lower rate suits pretrained weights only
            options.lr_mult = 1.0
    for node in cfg.get("custom_hooks", []):
        if node["type"] == "EMAHook":  # average over a tenth of the run; a config's momentum suits long runs
            node["momentum"] = max(node.get("momentum", 0), min(0.5, 10 / iters))
    cfg.setdefault("randomness", ConfigDict()).seed = 0
    return [
        f"data: generated, in {root}",
        f"image sizes: x {demo['scale']:.3g}",
        f"batch size: {demo['batch_size']}, no workers",
        f"schedule: {iters} iterations, learning rate {optimizer.lr:g}, also for the backbone",
        "weights: random (nothing is downloaded)",
    ]


def shorten_schedule(cfg: Config, total: int, iters: int) -> None:
    """Compress a schedule of ``total`` epochs or iterations to ``iters`` iterations."""
    cfg.train_cfg = ConfigDict(type="IterBasedTrainLoop", max_iters=iters, val_interval=iters)
    warmup = round(WARMUP_SHARE * iters)
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
