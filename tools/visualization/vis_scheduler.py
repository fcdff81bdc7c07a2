#!/usr/bin/env python
"""Plot the learning rate and momentum of configs over a whole run, without data or a GPU.

python tools/visualization/vis_scheduler.py seg/upernet_van_b2 det/mask_rcnn_van_b2_1x_coco
python tools/visualization/vis_scheduler.py cls/van_b2_in1k --gpus 4 --out lr.png
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments, add_out_argument, load_config  # noqa: E402  found through the line above


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="configs to plot, each in a row")
    parser.add_argument(
        "--gpus", type=int, help="number of GPUs (default: as many as make up the config's base_batch_size)"
    )
    parser.add_argument(
        "--samples", type=int, help="number of training samples (default: known for the suite's data sets)"
    )
    add_out_argument(parser, "schedule.png")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.analysis.schedule import count_steps_per_epoch, trace_schedule
    from van_mm.utils.errors import UserError

    if any(number is not None and number < 1 for number in (args.gpus, args.samples)):
        raise UserError("--gpus and --samples must be at least 1")
    runs = {}
    for name in args.configs:
        cfg = load_config(args, name)
        try:
            steps_per_epoch = count_steps_per_epoch(cfg, args.gpus, args.samples)
        except ValueError as error:
            raise UserError(f"{name}: {error} with --samples.") from error
        runs[name] = dict(steps_per_epoch=steps_per_epoch, **trace_schedule(cfg, steps_per_epoch))
    plot_schedules(runs, args.out)
    args.out.with_suffix(".json").write_text(json.dumps(runs) + "\n")
    print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


def plot_schedules(runs: dict[str, dict], file: Path) -> None:
    """Plot the learning rate and the momentum of each run in a row."""
    from van_mm.visualization.figures import COLORS, make_subplots, save_figure

    figure, axes = make_subplots(len(runs), 2, (9, 2.6 * len(runs)))
    for (lr_axis, momentum_axis), (name, run) in zip(axes, runs.items(), strict=True):
        lr_axis.plot(run["epoch"], run["lr"], color=COLORS[0])
        lr_axis.set(ylabel="learning rate", ylim=(0, None))
        lr_axis.set_title(name, loc="right")
        lr_axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        momentum_axis.plot(run["epoch"], run["momentum"], color=COLORS[1])
        title = f"{run['step'][-1] + 1:.0f} iterations"
        momentum_axis.set(ylabel="momentum, or beta 1", ylim=(0, 1.05), title=title)
        for axis in (lr_axis, momentum_axis):
            axis.set_xlabel(f"epoch of {run['steps_per_epoch']} iterations")
    save_figure(figure, file)


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
