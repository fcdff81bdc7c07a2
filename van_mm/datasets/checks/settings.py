"""Check settings of a config that have to match each other or the data sets."""

import copy
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import drop_pretrained, get_type_name
from van_mm.utils.random_state import keep_random_state

TRIAL_SIZES = dict(mmpretrain=(224, 224), mmpose=(256, 192))  # (512, 512) in other codebases (our choice)


def find_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield the problems of the model's, the pipelines' and the evaluators' settings."""
    yield from find_schedule_problems(cfg)
    yield from find_single_image_problems(cfg, datasets)


def find_schedule_problems(cfg: Config) -> Iterator[Problem]:
    """Yield a warning if the learning rate falls to zero long before the end of the training."""
    loop = cfg.get("train_cfg") or {}
    by_epoch = bool(loop.get("max_epochs"))
    length = loop.get("max_epochs") or loop.get("max_iters")
    schedulers = cfg.get("param_scheduler") or []
    last = None
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        if get_type_name(scheduler).endswith(("LR", "ParamScheduler")):
            last = scheduler
    if not length or last is None or not ends_at_zero(last):
        return
    is_in_unit = last.get("by_epoch", True) == by_epoch  # warm-up by iterations has no fixed place among the epochs
    end = min(last.get("end", length), last.get("begin", 0) + last.get("T_max", length))
    if is_in_unit and end < length:
        unit = "epoch" if by_epoch else "iteration"
        yield Problem(
            f"param_scheduler ({get_type_name(last)}) ends at {unit} {end} with a learning rate of 0, but the training "
            f"goes on to {unit} {length} and learns nothing after it. Set its end"
            f"{' and T_max' if 'T_max' in last else ''} to the length of the training",
            is_error=False,
        )


def ends_at_zero(scheduler: dict) -> bool:
    """Return whether a scheduler brings the learning rate to zero at its end."""
    name = get_type_name(scheduler)
    if name.startswith(("CosineAnnealing", "Poly")):
        return not (scheduler.get("eta_min") or scheduler.get("eta_min_ratio"))
    return name.startswith("Linear") and scheduler.get("end_factor") == 0


def find_single_image_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a problem if BatchNorm gets a single value for each channel in training, which PyTorch refuses."""
    loader, dataset = cfg.get("train_dataloader") or {}, datasets.get("train")
    batch_size = loader.get("batch_size")
    if dataset is None or not isinstance(batch_size, int) or batch_size < 1:
        return
    processes = get_world_size()
    last = math.ceil(len(dataset) / processes) % batch_size or batch_size
    if get_type_name(loader.get("sampler") or {}).startswith("Infinite") or loader.get("drop_last"):
        last = batch_size  # all batches are full
    names = find_pooled_norms(cfg, synchronized=processes == 1) if last == 1 else []
    if not names:
        return
    refused = f"BatchNorm in {names[0]} works on pooled features and can't train on one image"
    if batch_size == 1:
        yield Problem(f"train_dataloader.batch_size is 1, but {refused}. Set it to 2 or more")
    else:
        each = " of each process" if processes > 1 else ""
        yield Problem(
            f"the last batch of an epoch{each} has one image ({len(dataset)} images in batches of {batch_size}), but "
            f"{refused}. Set train_dataloader.drop_last=True, or another batch_size"
        )


def find_pooled_norms(cfg: Config, synchronized: bool) -> list[str]:
    """Return the names of the model's BatchNorm layers that get one value for each channel of an image.

    The model is built and run without memory for weights and features: backbone, neck, and each head alone.

    Args:
        cfg (Config): Config of an experiment.
        synchronized (bool): Whether to include SyncBN, which sees the images of all processes.
    """
    model_cfg = copy.deepcopy(cfg.model)
    drop_pretrained(model_cfg)
    names = []

    def note_single_value(name: str, _, inputs: tuple) -> None:
        if inputs[0].dim() > 1 and inputs[0].numel() == inputs[0].shape[1]:
            names.append(name)

    size = (cfg.get("data_preprocessor") or {}).get("size")  # of the crops of segmentation
    size = size if isinstance(size, (list, tuple)) else TRIAL_SIZES.get(cfg.get("default_scope"), (512, 512))
    with keep_random_state(), torch.device("meta"), torch.no_grad(), suppress(Exception):
        # A model that needs its weights, or does not build or run, is left to the run, which reports the error.
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
            model = MODELS.build(model_cfg).train()
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                module.eval()  # does not refuse a single value
                if synchronized or "Sync" not in type(module).__name__:
                    module.register_forward_pre_hook(partial(note_single_value, name))
        channels = next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
        features = model.extract_feat(torch.empty(1, channels, *size))
        for name, head in model.named_children():
            if name.endswith("head") and name != "roi_head":  # a roi_head gets many regions, not one image
                for one in head if isinstance(head, nn.ModuleList) else [head]:
                    with suppress(Exception):  # a head that reads the output of another one
                        one(features)
    return names
