#!/usr/bin/env python
"""Curves of one or several runs of any task, from the scalars that training writes.

python tools/analysis/analyze_logs.py work_dirs/upernet_van_b2
python tools/analysis/analyze_logs.py work_dirs/upernet_van_b2 work_dirs/upernet_van_b1 --keys loss mIoU --out runs.png

A run is a work dir (its newest log; with --all-logs what it was resumed from too), a folder of one log, or a
scalars.json. Drawn are the total loss, the metrics of validation, and the time of an iteration; --keys names others, by
their first letters. The printed table tells each run's last loss, best metrics and seconds per iteration; --json writes
it.
"""

import argparse
import json
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work dirs, folders of logs, or scalars.json files")
    parser.add_argument("--keys", nargs="+", metavar="NAME", help="curves (default: loss, metrics, time)")
    parser.add_argument("--all-logs", action="store_true", help="join the logs of a run that was resumed")
    parser.add_argument("--out", type=Path, default=Path("logs.png"), metavar="FILE.png", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the summary")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.analysis.logs import curves, find_logs, lower_is_better, read_log, summary
    from van_mm.errors import UserError
    from van_mm.visualization.figures import COLOURS, pyplot, save

    names = [Path(run).parents[2].name if Path(run).is_file() else Path(run).name for run in args.runs]
    if len(set(names)) < len(names):
        names = list(args.runs)
    runs = {
        name: [line for log in find_logs(run, args.all_logs) for line in read_log(log)]
        for name, run in zip(names, args.runs, strict=True)
    }
    drawn = {name: curves(lines) for name, lines in runs.items()}
    available = list(dict.fromkeys(key for found in drawn.values() for key in found))
    if args.keys:
        keys = [key for key in available if any(key.startswith(wanted) for wanted in args.keys)]
        if not keys:
            raise UserError(f"--keys: these runs have {', '.join(available)}")
    else:
        parts = {key for key in available if key != "loss" and ("loss" in key or "acc_seg" in key)}
        keys = [key for key in available if key not in parts | {"lr", "base_lr", "memory", "data_time", "momentum"}]
    width = min(3, len(keys))
    height = -(-len(keys) // width)
    figure, axes = pyplot.subplots(
        height, width, figsize=(4.6 * width, 3.2 * height), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(keys) :]:
        axis.axis("off")
    for axis, key in zip(axes.flat, keys, strict=False):
        for colour, (name, found) in zip(COLOURS * len(drawn), drawn.items(), strict=False):
            if key in found:
                steps, values = found[key]
                axis.plot(steps, values, color=colour, label=name, marker="o" if len(steps) < 20 else None, ms=4)
        axis.set(xlabel="iteration", ylabel=key + (", seconds" if key == "time" else ""), xlim=(0, None))
        if key == "time" or "loss" in key:
            axis.set_ylim(0, None)
        axis.legend(fontsize=8)
    save(figure, args.out)
    table = {name: summary(found) for name, found in drawn.items()}
    for name, row in table.items():
        print(name)
        for key, value in row.items():
            best = (
                ""
                if key in ("iterations", "seconds_per_iteration", "loss")
                else (" (least)" if lower_is_better(key) else " (best)")
            )
            print(f"  {key:<28} {value:g}{best}")
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
