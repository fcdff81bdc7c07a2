"""Follow the config's schedule in a resumed run whose schedule is not that of the checkpoint."""

import copy
import math
from collections import Counter
from collections.abc import Sequence

from torch.optim import Optimizer

# What a scheduler's state holds besides its settings.
PROGRESS_KEYS = {"last_step", "_global_step", "_last_value", "base_values", "verbose"}


def find_schedule_changes(schedulers: Sequence, saved: Sequence[dict]) -> list[str]:
    """Return how the schedulers of a config differ from those of a checkpoint.

    Args:
        schedulers (Sequence[_ParamScheduler]): mmengine's schedulers, as the config builds them.
        saved (Sequence[dict]): The state dicts of the checkpoint's schedulers.

    Returns:
        list[str]: One phrase for each setting that differs, with the checkpoint's value and the config's. Schedulers
        that depend on a metric have no length and are left out.
    """
    if len(schedulers) != len(saved):
        return [f"{len(saved)} schedulers, now {len(schedulers)}"]
    changes = []
    for scheduler, state in zip(schedulers, saved, strict=True):
        if depends_on_metric(scheduler):
            continue
        name, settings = type(scheduler).__name__, scheduler.state_dict()
        for key in sorted((set(settings) | set(state)) - PROGRESS_KEYS):
            if not is_equal(settings.get(key), state.get(key)):
                changes.append(f"{key} of {name} {format_value(state.get(key))}, now {format_value(settings.get(key))}")
        if not is_equal(scheduler.base_values, state.get("base_values")):
            old, new = max(state.get("base_values") or [0]), max(scheduler.base_values)
            changes.append(f"base {scheduler.param_name} of {name} {old:g}, now {new:g}")
    return changes


def find_lr_changes(groups: Sequence[dict], saved: Sequence[dict]) -> list[str]:
    """Return how the learning rates of an optimizer without schedulers differ from those of a checkpoint."""
    old, new = ([group.get("lr") for group in some] for some in (saved, groups))
    return [] if is_equal(old, new) else [f"learning rate {max(old):g}, now {max(new):g}"]


def depends_on_metric(scheduler) -> bool:
    """Return whether a scheduler's steps depend on a metric, as those of ReduceOnPlateauLR do."""
    return bool(getattr(scheduler, "need_val_args", False))


def is_equal(first, second) -> bool:
    """Return whether two settings are the same, up to rounding. Tuples are lists, and objects are not compared."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(is_equal, first, second))
    if isinstance(first, (int, float)) and isinstance(second, (int, float)):
        return math.isclose(first, second, rel_tol=1e-6)
    known = (int, float, str, bool, list, tuple, dict, type(None))
    return first == second if isinstance(first, known) and isinstance(second, known) else True


def format_value(value) -> str:
    """Return a setting as a short text, milestones as a list."""
    return str(sorted(value.elements()) if isinstance(value, Counter) else value)


class ParamGroups:
    """The distinct parameter groups of an optimizer, because most optimizers have thousands of equal groups.

    Schedulers take it for an optimizer that has taken a step. Its values are copies.

    Attributes:
        param_groups (list[dict]): Each kind of group once, without its parameters.
        index (list[int]): For each group of the optimizer, the index of its kind.
    """

    _global_step = 1

    def __init__(self, optimizer: Optimizer) -> None:
        self.param_groups, self.index, kinds = [], [], {}
        for group in optimizer.param_groups:
            settings = {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
            kind = kinds.setdefault(repr(sorted(settings.items())), len(kinds))
            if kind == len(self.param_groups):
                self.param_groups.append(settings)
            self.index.append(kind)

    def step(self) -> None:
        """Do nothing."""

    step._with_counter = True  # schedulers warn without it


def fast_forward(checkpoint: dict, optimizer: Optimizer, schedulers: Sequence, progress: tuple[int, int, int]) -> None:
    """Replace the schedule of a checkpoint by that of the config, at the place where the run goes on.

    Args:
        checkpoint (dict): Checkpoint with ``optimizer`` and ``param_schedulers``. It is changed in place.
        optimizer (Optimizer): Optimizer as the config builds it, before its first step.
        schedulers (Sequence[_ParamScheduler]): Schedulers of this optimizer as the config builds them. They are not
            changed.
        progress (tuple[int, int, int]): Number of epochs and of iterations that the run has had, and the number of
            iterations in an epoch, which is 0 for iteration-based runs.
    """
    epochs, iterations, epoch_length = progress
    groups, moving = ParamGroups(optimizer), []
    for scheduler in schedulers:
        if not depends_on_metric(scheduler):
            twin = copy.copy(scheduler)
            twin.optimizer = groups
            first = {kind: place for place, kind in reversed(list(enumerate(groups.index)))}
            twin.base_values = [scheduler.base_values[first[kind]] for kind in range(len(groups.param_groups))]
            moving.append((scheduler, twin))
    for iteration in range(1, iterations + 1):
        for _, twin in moving:
            if not twin.by_epoch:
                twin.step()
        if epoch_length and iteration % epoch_length == 0 and iteration // epoch_length <= epochs:
            for _, twin in moving:
                if twin.by_epoch:
                    twin.step()
    states, twins = [], {id(scheduler): twin for scheduler, twin in moving}
    for place, scheduler in enumerate(schedulers):
        twin = twins.get(id(scheduler))
        if twin is None:
            saved = checkpoint["param_schedulers"]
            states.append(saved[place] if place < len(saved) else scheduler.state_dict())
            continue
        state = {key: value for key, value in twin.__dict__.items() if key != "optimizer"}
        state["base_values"] = scheduler.base_values
        state["_last_value"] = [twin._last_value[kind] for kind in groups.index]
        states.append(state)
    checkpoint["param_schedulers"] = states
    names = {"lr"} | {scheduler.param_name for scheduler in schedulers}
    for group, kind in zip(checkpoint["optimizer"]["param_groups"], groups.index, strict=True):
        for key, value in groups.param_groups[kind].items():
            if key == "betas" and "momentum" in names or any(key == n or key.endswith(f"_{n}") for n in names):
                group[key] = value
