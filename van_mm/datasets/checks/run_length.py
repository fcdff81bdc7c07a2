"""Check that schedule, warm-up and weight averaging fit the length of the run, however it was set."""

import math
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.dist import get_world_size

from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import get_type_name
from van_mm.utils.run_length import WARMUP_SHARE, get_run_length, get_schedulers, is_warmup

FIRST_SHARE = 0.05  # largest share of the first step's weights in an average of weights (our choice)
REMEDY = "--epochs and --iters set the length of a run together with everything that depends on it"


def find_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield a warning for each part of the schedule that does not fit the length of the training."""
    loop, dataset = cfg.get("train_cfg") or {}, datasets.get("train")
    if dataset is None or not (loop.get("max_epochs") or loop.get("max_iters")):
        return
    length, by_epoch = get_run_length(cfg)
    steps_per_epoch = count_steps(cfg, dataset)
    if not steps_per_epoch or not isinstance(length, int):
        return
    steps = length * steps_per_epoch if by_epoch else length
    yield from find_scheduler_problems(cfg, steps, steps_per_epoch)
    yield from find_averaging_problems(cfg, steps)


def count_steps(cfg: Config, dataset) -> int | None:
    """Return the number of training steps in an epoch, or None if the batch size is not known."""
    loader = cfg.get("train_dataloader") or {}
    batch_size = loader.get("batch_size")
    if not isinstance(batch_size, int) or batch_size < 1:
        return None
    images = math.ceil(len(dataset) / get_world_size())
    return max(1, images // batch_size if loader.get("drop_last") else math.ceil(images / batch_size))


def find_scheduler_problems(cfg: Config, steps: int, steps_per_epoch: int) -> Iterator[Problem]:
    """Yield a warning for schedulers that end after the training, and for warm-ups that take too much of it."""
    length, by_epoch = get_run_length(cfg)
    for scheduler in get_schedulers(cfg):
        in_epochs = scheduler.get("by_epoch", True)
        end = scheduler.get("end") or scheduler.get("begin", 0) + scheduler.get("T_max", 0)
        unit, in_steps = ("epoch", end * steps_per_epoch) if in_epochs else ("iteration", end)
        if not math.isfinite(in_steps):
            continue
        name = f"param_scheduler ({get_type_name(scheduler)})"
        last = length if in_epochs == by_epoch else steps // steps_per_epoch if in_epochs else steps
        if is_warmup(scheduler):
            if in_steps > WARMUP_SHARE * steps + 1:
                yield Problem(
                    f"{name} warms up until {unit} {end:g}, which is {100 * in_steps / steps:.0f} % of a training of "
                    f"{steps} steps. Set its end to a tenth of the training: {REMEDY}",
                    is_error=False,
                )
        elif in_steps > steps:
            yield Problem(
                f"{name} ends at {unit} {end:g}, but the training ends at {unit} {last}, so that the learning rate "
                f"does not fall as planned. Set its end{', T_max' * ('T_max' in scheduler)} and milestones: {REMEDY}",
                is_error=False,
            )


def find_averaging_problems(cfg: Config, steps: int) -> Iterator[Problem]:
    """Yield a warning if an average of weights, which is what is evaluated, still holds the first step's weights."""
    for hook in cfg.get("custom_hooks") or ():
        kind = hook.get("ema_type", "ExponentialMovingAverage")
        if get_type_name(hook) != "EMAHook" or kind not in ("ExponentialMovingAverage", "ExpMomentumEMA"):
            continue
        momentum, gamma = hook.get("momentum", 2e-4), hook.get("gamma", 2000)
        updates = steps // hook.get("interval", 1)
        if kind == "ExpMomentumEMA" and updates < 10 * gamma:  # its first updates replace the average nearly at once
            continue
        share = (1 - momentum) ** updates
        if share > FIRST_SHARE:
            yield Problem(
                f"EMAHook averages weights over about {1 / momentum:.0f} steps, but the training has {steps}: "
                f"{100 * share:.0f} % of the average, which is evaluated and saved, are the weights of the first step. "
                f"Set momentum to {min(0.5, 10 / steps):.2g}: {REMEDY}",
                is_error=False,
            )
