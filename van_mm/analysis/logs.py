"""The scalars that mmengine's runs write, as curves."""

import json
from pathlib import Path
from statistics import median

from van_mm.errors import UserError

LOG = "vis_data/scalars.json"
OF_TRAINING = {"lr", "base_lr", "data_time", "time", "memory", "epoch", "iter", "step", "grad_norm", "momentum"}


def find_logs(run: str, all_logs: bool = False) -> list[Path]:
    """The ``scalars.json`` files of a run, oldest first: the newest alone, or all.

    Args:
        run (str): A work dir, the folder of one log, or the file itself.
        all_logs (bool): Also those before the newest. Defaults to False.

    Raises:
        UserError: If there is none.
    """
    path = Path(run)
    if path.is_file():
        return [path]
    logs = sorted(path.glob(f"*/{LOG}")) or sorted(path.glob(LOG))
    logs = [log for log in logs if '"loss"' in log.read_text()] or logs  # tests write logs of their own
    if not logs:
        raise UserError(f"{run}: no {LOG} in it; training writes one into its work dir")
    return logs if all_logs else logs[-1:]


def read_log(file: Path) -> list[dict]:
    """The lines of a log; one that was cut off is left out.

    Raises:
        UserError: If there is no line in it.
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
        raise UserError(f"{file} has no scalars; the run ended before its first log line, or it is another file")
    return lines


def curves(lines: list[dict]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by key: what training logs, then what validation found.

    Validation that counts epochs is put at the step of the training line before it. Where a resumed run logged a step
    again the later value counts.
    """
    found: dict[str, dict[int, float]] = {}
    step = 0
    for line in lines:
        training = "loss" in line or "lr" in line
        step = line.get("iter", line.get("step", step)) if training else step or line.get("step", 0)
        for key, value in line.items():
            skipped = {"epoch", "iter", "step"} if training else OF_TRAINING
            if key not in skipped and isinstance(value, (int, float)):
                found.setdefault(key, {})[step] = float(value)
    order = sorted(found, key=lambda key: (key != "loss", key in OF_TRAINING))
    return {key: (list(found[key]), list(found[key].values())) for key in order}


def lower_is_better(key: str) -> bool:
    """Whether small values of a metric are good ones."""
    return "loss" in key or key.endswith(("MAE", "time"))


def summary(found: dict[str, tuple[list[int], list[float]]]) -> dict[str, float]:
    """Iterations, seconds of one (median), the last loss, and the best value of each metric."""
    row = {"iterations": max(steps[-1] for steps, _ in found.values())}
    if "time" in found:
        row["seconds_per_iteration"] = median(found["time"][1])
    if "loss" in found:
        row["loss"] = found["loss"][1][-1]
    for key, (_, values) in found.items():
        if key not in OF_TRAINING and "loss" not in key:
            known = [value for value in values if value == value]
            if known:
                row[key] = min(known) if lower_is_better(key) else max(known)
    return row
