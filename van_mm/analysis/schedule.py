"""Compute the learning rate and momentum of a config over a whole run, without its data or model."""

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS, init_default_scope

from van_mm.utils.config_walk import get_type_name, iter_dicts

# Training samples of the suite's data sets. CocoDataset counts images with annotations, and mmpose's counts people.
NUM_TRAIN_SAMPLES = {
    "ImageNet": 1281167,
    "ImageNet21k": 14197122,  # ImageNet-22K, the Fall 2011 release; the cleaned 21K-P has 11,797,632
    "CUB": 5994,
    "CocoDataset": 117266,
    "CocoPanopticDataset": 118287,
    "mmpose.CocoDataset": 149813,
    "ADE20KDataset": 20210,
    "SaliencyDataset": 10553,
}


def count_steps_per_epoch(cfg: Config, gpus: int | None = None, samples: int | None = None) -> int:
    """Return the number of optimizer steps in an epoch.

    Args:
        cfg (Config): An experiment.
        gpus (int, optional): Number of GPUs. Defaults to the number that gives ``auto_scale_lr.base_batch_size``.
        samples (int, optional): Number of training samples. Defaults to the size of the data set, which is known for
            the data sets in ``NUM_TRAIN_SAMPLES``.

    Raises:
        ValueError: If the number of samples is not known.
    """
    kind = next(get_type_name(node) for node in iter_dicts(cfg.train_dataloader.dataset) if "pipeline" in node)
    samples = samples or NUM_TRAIN_SAMPLES.get(f"{cfg.default_scope}.{kind}") or NUM_TRAIN_SAMPLES.get(kind)
    if not samples:
        raise ValueError(f"the number of training samples of {kind} is not known. Set it")
    batch = cfg.train_dataloader.batch_size
    total = batch * gpus if gpus else cfg.get("auto_scale_lr", {}).get("base_batch_size", batch)
    return -(-samples // total)


def trace_schedule(cfg: Config, epoch_length: int, points: int = 2000) -> dict[str, list[float]]:
    """Run the config's parameter schedulers from the first step to the last.

    Args:
        cfg (Config): An experiment.
        epoch_length (int): Number of steps in an epoch.
        points (int): Approximate number of evenly spaced steps to return. The first step of every epoch and the last
            step of the run are returned in addition. Defaults to 2000.

    Returns:
        dict[str, list[float]]: ``step``, ``epoch``, ``lr`` and ``momentum`` (Adam's first beta) of the returned steps.

    Example:
        >>> cfg = van_mm.get_config("cls/van_b0_in1k")
        >>> steps_per_epoch = count_steps_per_epoch(cfg)
        >>> steps_per_epoch, round(max(trace_schedule(cfg, steps_per_epoch)["lr"]), 6)
        (1252, 0.001)
    """
    init_default_scope(cfg.default_scope)
    optimizer = OPTIMIZERS.build(dict(cfg.optim_wrapper.optimizer, params=[torch.zeros(1, requires_grad=True)]))
    by_epoch = "max_epochs" in cfg.train_cfg
    total = cfg.train_cfg.max_epochs * epoch_length if by_epoch else cfg.train_cfg.max_iters
    schedulers = []
    for options in cfg.get("param_scheduler") or []:
        options = dict(options)
        options.setdefault("end", cfg.train_cfg.max_epochs if by_epoch and options.get("by_epoch", True) else total)
        options.pop("_scope_", None)
        kind = PARAM_SCHEDULERS.get(options.pop("type"))
        if options.pop("convert_to_iter_based", False):
            schedulers.append(kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=epoch_length, **options))
        else:
            schedulers.append(kind(optimizer=optimizer, **options))
    interval = max(1, total // points)
    trace = {"step": [], "epoch": [], "lr": [], "momentum": []}
    for step in range(total):
        if step % interval == 0 or step % epoch_length == 0 or step == total - 1:
            group = optimizer.param_groups[0]
            momentum = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
            values = step, step / epoch_length, group["lr"], momentum
            for column, value in zip(trace.values(), values, strict=True):
                column.append(float(value))
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                scheduler.step()
    return trace
