"""Read the scalars that runs of mmengine log, as curves and summaries."""

import json
from pathlib import Path
from statistics import median

from van_mm.utils.errors import UserError

SCALARS_FILE = "vis_data/scalars.json"
# Scalars of the training loop, which are no metrics.
TRAINING_KEYS = {"lr", "base_lr", "data_time", "time", "memory", "epoch", "iter", "step", "grad_norm", "momentum"}


def find_logs(run: str, all_logs: bool = False) -> list[Path]:
    """Find the ``scalars.json`` files of a run.

    Args:
        run (str): A work dir, the folder of a log, or a file.
        all_logs (bool): Return all logs of the work dir instead of the newest. Defaults to False.

    Returns:
        list[Path]: The files, oldest first.

    Raises:
        UserError: If there is no such file.
    """
    path = Path(run)
    if path.is_file():
        return [path]
    logs = sorted(path.glob(f"*/{SCALARS_FILE}")) or sorted(path.glob(SCALARS_FILE))
    logs = [log for log in logs if '"loss"' in log.read_text()] or logs  # ignore the logs of tests
    if not logs:
        raise UserError(f"{run} has no {SCALARS_FILE}. Name a work dir; training writes one into it")
    return logs if all_logs else logs[-1:]


def read_log(file: Path) -> list[dict]:
    """Read the lines of a log. Incomplete lines are skipped.

    Raises:
        UserError: If the file has no complete line.
    """
    lines = []
    for text in file.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    if not lines:
        raise UserError(f"{file} has no scalars. The run ended before it logged any, or the file is no log")
    return lines


def extract_curves(lines: list[dict]) -> dict[str, tuple[list[int], list[float]]]:
    """Return the curve of every scalar.

    Validation is placed at its own step. Epoch-based loops log the epoch of a validation, which is converted to
    iterations; if the log is of one epoch only, the step of the training line before the validation stands for it.
    If a resumed run logged a step twice, the later value is used.

    Args:
        lines (list[dict]): Lines from :func:`read_log`.

    Returns:
        dict[str, tuple[list[int], list[float]]]: Steps and values by key: the loss, the metrics, and then the other
        scalars of training.
    """
    curves: dict[str, dict[int, float]] = {}
    epoch_length = find_epoch_length([line for line in lines if is_training_line(line)])
    last = 0  # step of the last training line
    for line in lines:
        training = is_training_line(line)
        if training:
            last = step = line.get("iter", line.get("step", last))
        else:
            step = line.get("step", 0)
            if not step >= last > 0:  # an epoch, or no step at all
                step = step * epoch_length or last or step
        for key, value in line.items():
            skipped = {"epoch", "iter", "step"} if training else TRAINING_KEYS
            if key not in skipped and isinstance(value, (int, float)):
                curves.setdefault(key, {})[step] = float(value)
    order = sorted(curves, key=lambda key: (key != "loss", key in TRAINING_KEYS))
    return {key: (list(curves[key]), list(curves[key].values())) for key in order}


def is_training_line(line: dict) -> bool:
    """Return whether a line of a log is of training, and not of a validation."""
    return "loss" in line or "lr" in line


def find_epoch_length(lines: list[dict]) -> int:
    """Return the number of iterations in an epoch, or 0 if the training lines do not tell it.

    The first lines of two epochs are one or more whole epochs apart, because each is logged after the same interval.
    """
    firsts: dict[int, int] = {}
    for line in lines:
        if "epoch" in line and "iter" in line:
            firsts.setdefault(line["epoch"], line["iter"])
    if len(firsts) < 2:
        return 0
    first, last = min(firsts), max(firsts)
    return max(0, round((firsts[last] - firsts[first]) / (last - first)))


def is_lower_better(key: str) -> bool:
    """Return whether smaller values of a metric are better."""
    return "loss" in key or key.endswith(("MAE", "time"))


def summarize_curves(found: dict[str, tuple[list[int], list[float]]]) -> dict[str, float]:
    """Summarize the curves of a run.

    Args:
        found (dict): Curves from :func:`extract_curves`.

    Returns:
        dict[str, float]: ``iterations``, ``seconds_per_iteration`` (median), the last ``loss``, and the best value of
        each metric.
    """
    row = {"iterations": max(steps[-1] for steps, _ in found.values())}
    if "time" in found:
        row["seconds_per_iteration"] = median(found["time"][1])
    if "loss" in found:
        row["loss"] = found["loss"][1][-1]
    for key, (_, values) in found.items():
        if key not in TRAINING_KEYS and "loss" not in key:
            valid = [value for value in values if value == value]  # without NaN
            if valid:
                row[key] = min(valid) if is_lower_better(key) else max(valid)
    return row
