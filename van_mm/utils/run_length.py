"""Change the length of a run, and everything in its config that depends on the length."""

from mmengine.config import Config, ConfigDict

from van_mm.utils.config_walk import get_type_name

WARMUP_SHARE = 0.1  # largest share of a run that warms up; our choice
EMA_SHARE = 0.1  # largest share of a run that an average of weights goes back; our choice
EPOCH_KEYS = ("num_last_epochs", "switch_epoch", "begin_epoch")  # of hooks that act at an epoch


def get_run_length(cfg: Config) -> tuple[int, bool]:
    """Return the number of epochs or iterations of a training, and whether it counts epochs."""
    loop = cfg.train_cfg
    return (loop["max_epochs"], True) if loop.get("max_epochs") else (loop["max_iters"], False)


def get_schedulers(cfg: Config) -> list[ConfigDict]:
    """Return the parameter schedulers of a config, which may have one, several or none."""
    schedulers = cfg.get("param_scheduler") or []
    return list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]


def is_warmup(scheduler: dict) -> bool:
    """Return whether a scheduler raises the learning rate at the beginning of a run."""
    name = get_type_name(scheduler)
    rises = name.startswith("Linear") and scheduler.get("start_factor", 1 / 3) < scheduler.get("end_factor", 1.0)
    return scheduler.get("begin", 0) == 0 and ("end" in scheduler) and (rises or "Warmup" in name)


def set_run_length(cfg: Config, length: int, by_epoch: bool, steps_per_epoch: int | None = None) -> list[str]:
    """Change the length of a training in place, with its schedule.

    The points of the schedule keep their share of the run. A warm-up becomes a tenth of the run if it was longer, or if
    it counts iterations and the run counts epochs or the other way round and the number of steps is not known. The
    average of weights (EMA) goes back a tenth of the run at most. Validation and checkpoints stay as frequent as they
    were in relation to the run.

    Args:
        cfg (Config): An experiment.
        length (int): Number of epochs or iterations.
        by_epoch (bool): Whether ``length`` counts epochs.
        steps_per_epoch (int, optional): Optimizer steps in an epoch, if they are known.

    Returns:
        list[str]: What changed, one line for each.

    Raises:
        ValueError: If ``length`` is not positive.

    Example:
        >>> cfg = van_mm.get_config("cls/van_b0_in1k")
        >>> changes = set_run_length(cfg, 30, by_epoch=True)
        >>> [(scheduler.type, scheduler.get("begin", 0), scheduler.end) for scheduler in cfg.param_scheduler]
        [('LinearLR', 0, 3.0), ('CosineAnnealingLR', 3.0, 30)]
    """
    if length < 1:
        raise ValueError(f"a run has at least 1 {'epoch' if by_epoch else 'iteration'}, got {length}")
    old_length, was_by_epoch = get_run_length(cfg)
    unit = "epochs" if by_epoch else "iterations"
    steps = length * steps_per_epoch if by_epoch and steps_per_epoch else None if by_epoch else length

    def scale(value: float) -> int:
        """Return a number of epochs or iterations of the old run in the unit of the new one, at least 1."""
        return max(1, round(value / old_length * length))

    changes = scale_schedulers(cfg, length, by_epoch, steps_per_epoch)
    changes += scale_averaging(cfg, old_length / length if was_by_epoch == by_epoch else None, steps)
    loop = cfg.train_cfg
    interval = min(length, scale(loop.get("val_interval", 1)))
    new_loop = ConfigDict(type="EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop", val_interval=interval)
    new_loop["max_epochs" if by_epoch else "max_iters"] = length
    if loop.get("val_begin", 1) > 1:
        new_loop.val_begin = scale(loop.val_begin)
    if loop.get("dynamic_intervals"):
        new_loop.dynamic_intervals = [(scale(start), scale(every)) for start, every in loop.dynamic_intervals]
    cfg.train_cfg = new_loop
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook"))
    if checkpoint.get("interval", 1) > 0:
        checkpoint.interval = min(length, scale(checkpoint.get("interval", 1)))
    checkpoint.by_epoch = by_epoch
    hooks.setdefault("logger", ConfigDict(type="LoggerHook")).log_metric_by_epoch = by_epoch
    cfg.log_processor = ConfigDict(cfg.get("log_processor") or {}, by_epoch=by_epoch)
    if by_epoch and get_type_name(cfg.train_dataloader.get("sampler") or {}) == "InfiniteSampler":
        cfg.train_dataloader.sampler.type = "DefaultSampler"  # an epoch has to end
    for hook in cfg.get("custom_hooks") or []:
        for key in EPOCH_KEYS:
            if was_by_epoch and by_epoch and hook.get(key):
                hook[key] = scale(hook[key])
    return [
        f"length: {length} {unit}, instead of {old_length} {'epochs' if was_by_epoch else 'iterations'}; validation "
        f"every {interval}, checkpoint every {checkpoint.interval}",
        *changes,
    ]


def scale_schedulers(cfg: Config, length: int, by_epoch: bool, steps_per_epoch: int | None) -> list[str]:
    """Move the points of the parameter schedulers, and return what changed."""
    old_length, was_by_epoch = get_run_length(cfg)
    schedulers = get_schedulers(cfg)
    points = [max(s.get("end", 0), *s.get("milestones", [0])) for s in schedulers if not s.get("by_epoch", True)]
    totals = {was_by_epoch: old_length, not was_by_epoch: max(points, default=0) or old_length}
    warmup, changes, kept = 0.0, [], []
    warmup_ends = {True: 0, False: 0}  # of the old schedule, in epochs and in iterations
    for scheduler in filter(is_warmup, schedulers):
        end, in_epochs = scheduler.end, scheduler.get("by_epoch", True)
        warmup_ends[in_epochs] = max(warmup_ends[in_epochs], end)
        if in_epochs != by_epoch:
            end = end * (steps_per_epoch or 0) if in_epochs else end / steps_per_epoch if steps_per_epoch else 0
        warmup = max(warmup, min(WARMUP_SHARE * length, end or length))
    if not by_epoch:
        warmup = round(warmup)
    elif steps_per_epoch and warmup * steps_per_epoch < 1:
        warmup = 0  # mmengine refuses a scheduler of less than a step
    for scheduler in schedulers:
        in_epochs = scheduler.get("by_epoch", True)
        total, old_warmup = totals[in_epochs], warmup_ends[in_epochs]

        def move(point: float, total=total, old_warmup=old_warmup) -> float:
            if point <= old_warmup:
                moved = point / old_warmup * warmup if old_warmup else 0
            else:
                moved = (
                    warmup + (point - old_warmup) / (total - old_warmup) * (length - warmup)
                    if old_warmup
                    else (point / total * length)
                )
            return moved if by_epoch else round(moved)

        if is_warmup(scheduler):
            scheduler.begin, scheduler.end = 0, warmup
            if not warmup:
                continue
            changes.append(f"warm-up: {warmup:g} {'epochs' if by_epoch else 'iterations'}")
        else:
            begin, end = scheduler.get("begin", 0), scheduler.get("end", total)
            if scheduler.get("T_max"):
                peak = scheduler.pop("T_max")
                if begin + peak != end:
                    scheduler.T_max = move(begin + peak) - move(begin)
            scheduler.begin, scheduler.end = move(begin), length if end >= total else move(end)
        if "milestones" in scheduler:
            scheduler.milestones = [max(1, round(move(point))) for point in scheduler.milestones]
            scheduler.begin, scheduler.end = round(scheduler.begin), round(scheduler.end)
            changes.append(f"milestones: {scheduler.milestones}")
        scheduler.by_epoch = by_epoch
        scheduler.pop("convert_to_iter_based", None)
        if by_epoch and "milestones" not in scheduler:
            scheduler.convert_to_iter_based = True  # its points need not be whole epochs
        kept.append(scheduler)
    cfg.param_scheduler = kept
    return changes


def scale_averaging(cfg: Config, shortening: float | None, steps: int | None) -> list[str]:
    """Shorten the average of weights of EMA hooks, so that it goes back a tenth of the run at most.

    Args:
        cfg (Config): An experiment.
        shortening (float, optional): The old length of the run in relation to the new one, if both count the same.
        steps (int, optional): Optimizer steps of the new run, if they are known.
    """
    changes = []
    for hook in cfg.get("custom_hooks") or []:
        if get_type_name(hook) != "EMAHook":
            continue
        old = hook.get("momentum", 2e-4)
        new = max(old, 1 / (EMA_SHARE * steps)) if steps else old * max(1.0, shortening or 1.0)
        if (new := float(f"{min(0.5, new):.3g}")) != old:
            hook["momentum"] = new
            changes.append(f"EMA: momentum {new:g} instead of {old:g}, an average over about {1 / new:.0f} steps")
    return changes
