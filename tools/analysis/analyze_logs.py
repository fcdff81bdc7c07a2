#!/usr/bin/env python
"""Plot and summarize the scalars that one or more training runs logged.

python tools/analysis/analyze_logs.py work_dirs/upernet_van_b2
python tools/analysis/analyze_logs.py work_dirs/upernet_van_b2 work_dirs/upernet_van_b1 --keys loss mIoU --out runs.png

A run is a work dir, the folder of a single log, or a scalars.json file. Of a work dir, the newest log is read; with
--all-logs, the logs of the runs that it was resumed from are read too.

The default curves are the total loss, the validation metrics and the time per iteration. --keys selects other curves by
the first letters of their names. The printed table lists the last loss, the best metrics and the seconds per iteration
of each run; --json also writes it to a file.
"""

import argparse
import json
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work dirs, folders of logs, or scalars.json files")
    parser.add_argument("--keys", nargs="+", metavar="NAME", help="curves to plot (default: loss, metrics and time)")
    parser.add_argument("--all-logs", action="store_true", help="join the logs of a run that was resumed")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("logs.png"),
        metavar="FILE.png",
        help="file of the plot (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the summary as JSON")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.analysis.logs import extract_curves, summarize_curves

    curves = {name: extract_curves(lines) for name, lines in read_runs(args.runs, args.all_logs).items()}
    keys = choose_keys(list(dict.fromkeys(key for run in curves.values() for key in run)), args.keys)
    plot_curves(curves, keys, args.out)
    summary = {name: summarize_curves(run) for name, run in curves.items()}
    print_summary(summary)
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"wrote {args.out}")


def read_runs(paths: list[str], all_logs: bool) -> dict[str, list[dict]]:
    """Return the logged lines of each run by the name of its work dir, or by its path if two names are the same."""
    from van_mm.analysis.logs import find_logs, read_log

    names = [Path(path).parents[2].name if Path(path).is_file() else Path(path).name for path in paths]
    if len(set(names)) < len(names):
        names = paths
    return {
        name: [line for log in find_logs(path, all_logs) for line in read_log(log)]
        for name, path in zip(names, paths, strict=True)
    }


def choose_keys(available: list[str], prefixes: list[str] | None) -> list[str]:
    """Return the curves to plot: those that start with one of the prefixes, or the default ones."""
    from van_mm.utils.errors import UserError

    if prefixes:
        keys = [key for key in available if key.startswith(tuple(prefixes))]
        if not keys:
            raise UserError(f"--keys {' '.join(prefixes)} matches no curve; these runs have {', '.join(available)}")
        return keys
    loss_terms = {key for key in available if key != "loss" and ("loss" in key or "acc_seg" in key)}
    return [key for key in available if key not in loss_terms | {"lr", "base_lr", "memory", "data_time", "momentum"}]


def plot_curves(curves: dict[str, dict], keys: list[str], file: Path) -> None:
    """Plot each key in a panel, with one curve per run."""
    from van_mm.visualization.figures import COLORS, make_subplots, save_figure

    width = min(3, len(keys))
    height = -(-len(keys) // width)
    figure, axes = make_subplots(height, width, (4.6 * width, 3.2 * height))
    for axis in axes.flat[len(keys) :]:
        axis.axis("off")
    for axis, key in zip(axes.flat, keys, strict=False):
        for color, (name, run) in zip(COLORS * len(curves), curves.items(), strict=False):
            if key in run:
                steps, values = run[key]
                axis.plot(steps, values, color=color, label=name, marker="o" if len(steps) < 20 else None, ms=4)
        axis.set(xlabel="iteration", ylabel=key + (", seconds" if key == "time" else ""), xlim=(0, None))
        if key == "time" or "loss" in key:
            axis.set_ylim(0, None)
        axis.legend(fontsize=8)
    save_figure(figure, file)


def print_summary(summary: dict[str, dict[str, float]]) -> None:
    """Print the summary of each run, and for each metric whether it is the lowest or the best value."""
    from van_mm.analysis.logs import is_lower_better

    for name, row in summary.items():
        print(name)
        for key, value in row.items():
            if key in ("iterations", "seconds_per_iteration", "loss"):
                note = ""
            else:
                note = " (lowest)" if is_lower_better(key) else " (best)"
            print(f"  {key:<28} {value:g}{note}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
