#!/usr/bin/env python
"""Learning rate and momentum of configs over a whole run. Neither data nor a GPU is needed.

python tools/visualization/vis_scheduler.py seg/upernet_van_b2 det/mask_rcnn_van_b2_1x_coco
python tools/visualization/vis_scheduler.py cls/van_b2_in1k --gpus 4 --out lr.png
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments  # noqa: E402  a neighbour of this folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="experiments, a row each")
    parser.add_argument("--gpus", type=int, help="default: as many as make the config's own batch")
    parser.add_argument("--samples", type=int, help="training samples (default: those of the suite's data sets)")
    parser.add_argument("--out", type=Path, default=Path("schedule.png"), metavar="FILE.png", help="%(default)s")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.analysis.schedule import schedule, steps_per_epoch
    from van_mm.errors import UserError
    from van_mm.launch import load_config
    from van_mm.visualization.figures import COLOURS, pyplot, save

    if 0 in (args.gpus, args.samples) or min(args.gpus or 1, args.samples or 1) < 1:
        raise UserError("--gpus and --samples must be at least 1")
    runs = {}
    for name in args.configs:
        cfg = load_config(argparse.Namespace(**{**vars(args), "config": name}))
        try:
            length = steps_per_epoch(cfg, args.gpus, args.samples)
        except ValueError as error:
            raise UserError(f"{name}: {error} with --samples") from error
        runs[name] = dict(steps_per_epoch=length, **schedule(cfg, length))
    figure, axes = pyplot.subplots(len(runs), 2, figsize=(9, 2.6 * len(runs)), layout="constrained", squeeze=False)
    for (rate, momentum), (name, run) in zip(axes, runs.items(), strict=True):
        rate.plot(run["epoch"], run["lr"], color=COLOURS[0])
        rate.set(ylabel="learning rate", ylim=(0, None))
        rate.set_title(name, loc="right")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        momentum.plot(run["epoch"], run["momentum"], color=COLOURS[1])
        momentum.set(ylabel="momentum, or beta 1", ylim=(0, 1.05), title=f"{run['step'][-1] + 1:.0f} iterations")
        for axis in (rate, momentum):
            axis.set_xlabel(f"epoch of {run['steps_per_epoch']} iterations")
    save(figure, args.out)
    args.out.with_suffix(".json").write_text(json.dumps(runs) + "\n")
    print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
