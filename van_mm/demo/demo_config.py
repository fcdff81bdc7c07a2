"""Change a config so that it trains and tests on a small generated data set within minutes."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from van_mm.utils.config_walk import iter_dicts, replace_data_root
from van_mm.utils.image_sizes import scale_image_sizes
from van_mm.utils.run_length import set_run_length

# Defaults of each codebase; all values are our choice. ``scale`` multiplies image sizes, ``batch_size`` is per process,
# ``iters`` counts optimizer steps, ``lr`` suits a short run from random weights, and ``rois`` limits the regions per
# image that the second stage of a detector samples. ``demo = dict(...)`` in a config overrides them.
DEMO_DEFAULTS = {
    "mmpretrain": dict(scale=64 / 224, batch_size=16, iters=320, lr=1e-3),
    "mmdet": dict(batch_size=4, iters=450, lr=3e-4, rois=32),  # the scale follows from DETECTION_SIDE
    "mmseg": dict(scale=0.125, batch_size=6, iters=180, lr=8e-4),
    "mmpose": dict(scale=0.5, batch_size=8, iters=260, lr=1e-3),
}
DETECTION_SIDE = 160  # longer side of a detector's test images, in pixels; our choice
SGD_LR_FACTOR = 30  # limits the learning rate of SGD to this multiple of ``lr``, which suits Adam; our choice


def get_demo_settings(cfg: Config) -> dict:
    """Return the defaults of a config's codebase, as the config's ``demo`` overrides them."""
    return {**DEMO_DEFAULTS[cfg.default_scope], **cfg.get("demo", {})}


def use_scratch_lr(cfg: Config) -> None:
    """Set the learning rate for a short run from random weights, also for the backbone."""
    optimizer, lr = cfg.optim_wrapper.optimizer, get_demo_settings(cfg)["lr"]
    optimizer.lr = min(optimizer.lr, SGD_LR_FACTOR * lr) if optimizer.type == "SGD" else lr
    for options in (cfg.optim_wrapper.get("paramwise_cfg") or {}).get("custom_keys", {}).values():
        if options.get("lr_mult", 1.0) < 1:  # a lower rate suits pretrained weights only
            options.lr_mult = 1.0


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
    demo = get_demo_settings(cfg)
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

    scale_image_sizes(cfg, demo["scale"])
    for node in iter_dicts(cfg.model):
        # Only samplers of second stages add the ground truth. The sampler of an RPN is cheap and stays as it is.
        if node.get("type") == "RandomSampler" and node.add_gt_as_proposals:
            node.num = min(node.num, demo["rois"])
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

    set_run_length(cfg, iters, by_epoch=False)
    cfg.train_cfg = ConfigDict(type="IterBasedTrainLoop", max_iters=iters, val_interval=iters)
    cfg.default_hooks.logger.interval, cfg.default_hooks.checkpoint.interval = 10, iters
    use_scratch_lr(cfg)
    cfg.setdefault("randomness", ConfigDict()).seed = 0
    return [
        f"data: generated, in {root}",
        f"image sizes: x {demo['scale']:.3g}",
        f"batch size: {demo['batch_size']}, no workers",
        f"schedule: {iters} iterations, learning rate {cfg.optim_wrapper.optimizer.lr:g}, also for the backbone",
        "weights: random (nothing is downloaded)",
    ]
