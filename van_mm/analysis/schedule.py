"""Learning rate and momentum of a config over a whole run, without its data or model."""

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS, init_default_scope

from van_mm.demo import dicts

# Training samples of the data sets of the suite; COCO's without the images that have no annotation.
SAMPLES = {
    "ImageNet": 1281167,
    "ImageNet21k": 11797632,
    "CUB": 5994,
    "CocoDataset": 117266,
    "CocoPanopticDataset": 118287,
    "mmpose.CocoDataset": 149813,
    "ADE20KDataset": 20210,
    "van_mm.SaliencyDataset": 10553,
}


def steps_per_epoch(cfg: Config, gpus: int | None = None, samples: int | None = None) -> int:
    """Optimiser steps in one epoch.

    Args:
        cfg (Config): Of the experiment.
        gpus (int, optional): By default as many as make ``auto_scale_lr.base_batch_size``.
        samples (int, optional): Training samples. By default those of the data set, where it is one of the suite's.

    Raises:
        ValueError: If the number of samples is not known.
    """
    kind = next(node.type for node in dicts(cfg.train_dataloader.dataset) if "pipeline" in node)
    samples = samples or SAMPLES.get(f"{cfg.default_scope}.{kind}") or SAMPLES.get(kind)
    if not samples:
        raise ValueError(f"how many training samples {kind} has is not known; say it")
    batch = cfg.train_dataloader.batch_size
    total = batch * gpus if gpus else cfg.get("auto_scale_lr", {}).get("base_batch_size", batch)
    return -(-samples // total)


def schedule(cfg: Config, epoch_length: int, points: int = 2000) -> dict[str, list[float]]:
    """Follow the config's schedulers from the first step to the last.

    Args:
        cfg (Config): Of the experiment.
        epoch_length (int): Steps in an epoch.
        points (int): About how many steps are kept, evenly spaced; every change of an epoch is. Defaults to 2000.

    Returns:
        dict[str, list[float]]: ``step``, ``epoch``, ``lr`` and ``momentum`` (the first beta of Adam).
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
    every = max(1, total // points)
    kept = {"step": [], "epoch": [], "lr": [], "momentum": []}
    for step in range(total):
        if step % every == 0 or step % epoch_length == 0 or step == total - 1:
            group = optimizer.param_groups[0]
            momentum = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
            values = step, step / epoch_length, group["lr"], momentum
            for column, value in zip(kept.values(), values, strict=True):
                column.append(float(value))
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                scheduler.step()
    return kept
