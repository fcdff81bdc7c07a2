#!/usr/bin/env python
"""Plot accuracy by speed and size, from the paper's figures and from benchmarks of this machine.

python tools/analysis/plot_tradeoffs.py --out-dir plots
python tools/analysis/benchmark.py --backbones b0 b1 b2 b3 swin-t swin-s --cases 224x8 --json bench.json
python tools/analysis/plot_tradeoffs.py --benchmark bench.json --out-dir plots

throughput.png (figure 5) shows ImageNet-1K top-1 by images per second. The paper's speeds on an RTX 3090 and the
measured speeds have separate panels. tasks.png (figure 7) has a bar for each backbone in each task. cost.png shows the
accuracy of each task by parameters and FLOPs, as printed in the paper.
"""

import argparse
import json
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="FILE.json",
        help="files written by benchmark.py --json (default: the paper's figures only)",
    )
    parser.add_argument(
        "--out-dir", type=Path, default=Path("plots"), metavar="DIR", help="folder of the plots (default: %(default)s)"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    benchmarks = [read_benchmark(file) for file in args.benchmark]
    plot_throughput(benchmarks, args.out_dir / "throughput.png")
    plot_tasks(args.out_dir / "tasks.png")
    plot_cost(args.out_dir / "cost.png")
    print(f"wrote throughput.png, tasks.png and cost.png in {args.out_dir}")


def read_benchmark(file: str) -> tuple[str, list[dict]]:
    """Return a description of a benchmark's machine, and the inference rows of backbones with a known top-1."""
    from van_mm.paper.tables import get_imagenet_top1
    from van_mm.utils.errors import UserError

    top1 = get_imagenet_top1()
    try:
        benchmark = json.loads(Path(file).read_text())
        machine = f"{benchmark['machine']['device']}, {benchmark['machine']['threads']} threads"
        rows = [
            dict(name=row["model"], images_per_s=row["images_per_s"], top1=top1[row["model"]], case=row["case"])
            for row in benchmark["rows"]
            if row["mode"] == "infer" and row["model"] in top1
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} was not written by benchmark.py --json: {type(error).__name__}: {error}") from error
    if not rows:
        raise UserError(f"{file} has no inference benchmark of a backbone whose top-1 is in the paper")
    return machine, rows


def plot_throughput(benchmarks: list[tuple[str, list[dict]]], file: Path) -> None:
    """Plot figure 5. The paper and each machine have separate panels, because their speeds cannot be compared."""
    from van_mm.paper.tables import load_paper
    from van_mm.visualization.figures import COLORS, make_subplots, save_figure

    paper_rows = [
        dict(
            name=row["row"].removeprefix("VAN-").lower(),
            images_per_s=float(row["images_per_s"]),
            top1=float(row["top1"]),
        )
        for row in load_paper()["tables"][4]["rows"]
    ]
    panels = [("paper: RTX 3090", paper_rows)]
    for machine, rows in benchmarks:
        for case in dict.fromkeys(row["case"] for row in rows):
            panels.append((f"measured: {machine}, {case}", [row for row in rows if row["case"] == case]))
    figure, axes = make_subplots(1, len(panels), (5.2 * len(panels), 4))
    for axis, (title, rows) in zip(axes[0], panels, strict=True):
        for color, marker, family in zip(COLORS, "os^D", ("VAN", "Swin", "ConvNeXt", "ResNet"), strict=False):
            members = sorted((r for r in rows if get_family(r["name"]) == family), key=lambda r: r["images_per_s"])
            if members:
                x, y = [row["images_per_s"] for row in members], [row["top1"] for row in members]
                axis.plot(x, y, marker=marker, color=color, label=family)
            for row in members:
                point = (row["images_per_s"], row["top1"])
                offset, side = ((6, 4), "left") if family == "VAN" else ((-6, -12), "right")
                axis.annotate(row["name"], point, offset, textcoords="offset points", fontsize=9, ha=side)
        axis.set(xlabel="images / s at 224x224", ylabel="ImageNet-1K top-1, % (paper)", title=title)
        axis.margins(0.15)
        axis.legend()
    save_figure(figure, file)


def get_family(name: str) -> str:
    """Return 'Swin', 'ConvNeXt' or 'ResNet' for a backbone's name, and 'VAN' for any other name."""
    for family in ("Swin", "ConvNeXt", "ResNet"):
        if name.lower().startswith(family.lower()):
            return family
    return "VAN"


def plot_tasks(file: Path) -> None:
    """Plot figure 7: the results of backbones of about VAN-B2's size in each task."""
    from van_mm.paper.tables import load_paper
    from van_mm.visualization.figures import COLORS, make_subplots, save_figure

    paper = load_paper()
    peers, tables = paper["comparators"], paper["tables"]

    def get_van_result(number: int, row_prefix: str, column: str) -> float:
        return float(next(row[column] for row in tables[number]["rows"] if row["row"].startswith(row_prefix)))

    panels = [
        ("ImageNet-1K\ntop-1, %", peers["imagenet1k"], get_van_result(7, "VAN-B2", "top1")),
        ("COCO, Mask R-CNN 3x\nbox AP", peers["coco_mask_rcnn_3x"], get_van_result(11, "Mask R-CNN", "APb")),
        ("ADE20K, UperNet\nmIoU, %", peers["ade20k_upernet"], get_van_result(12, "UperNet VAN-B2", "mIoU")),
        ("COCO panoptic\nPQ", peers["coco_panoptic"], get_van_result(14, "VAN-B2", "PQ")),
        ("COCO pose 256x192\nAP", peers["coco_pose_256x192"], get_van_result(15, "VAN-B2, 256x192", "AP")),
    ]
    figure, axes = make_subplots(1, len(panels), (13, 3.6))
    colors = dict(zip(("VAN-B2", "Swin-T", "ConvNeXt-T", "PVT"), COLORS, strict=False))
    for axis, (title, results, van) in zip(axes[0], panels, strict=True):
        pvt = next((results[name] for name in ("PVT-Medium", "PVT-S") if name in results), None)
        bars = {"PVT": pvt, "Swin-T": results.get("Swin-T"), "ConvNeXt-T": results.get("ConvNeXt-T"), "VAN-B2": van}
        bars = {name: float(value) for name, value in bars.items() if value is not None}
        drawn = axis.bar(list(bars), list(bars.values()), color=[colors[name] for name in bars], width=0.65)
        axis.bar_label(drawn, fmt="%.1f", fontsize=9)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(min(bars.values()) - 3, max(bars.values()) + 1)
        axis.tick_params(axis="x", rotation=35, labelsize=9)
        axis.grid(axis="x", visible=False)
    figure.suptitle("paper: backbones of about VAN-B2's size (axes do not start at 0)", fontsize=11)
    save_figure(figure, file)


COST_PANELS = [  # table, column, label of the axis, and for each curve the prefix of its rows
    (7, "top1", "ImageNet-1K top-1, %", {"VAN": "VAN"}),
    (9, "AP", "COCO box AP, RetinaNet 1x", {"RetinaNet": "VAN"}),
    (10, "APb", "COCO box AP, Mask R-CNN 1x", {"Mask R-CNN": "VAN"}),
    (12, "mIoU", "ADE20K mIoU, %", {"Semantic FPN": "Semantic FPN", "UperNet": "UperNet"}),
]


def plot_cost(file: Path) -> None:
    """Plot accuracy by parameters, and by FLOPs for the tables of the paper that list FLOPs."""
    from van_mm.paper.tables import load_paper
    from van_mm.visualization.figures import COLORS, MARKERS, make_subplots, save_figure

    tables = load_paper()["tables"]
    panels = [
        (cost, number, column, label, curves)
        for number, column, label, curves in COST_PANELS
        for cost in ("params", "flops")
        if any(cost in row and column in row for row in tables[number]["rows"])
    ]
    width = 3
    height = -(-len(panels) // width)
    figure, axes = make_subplots(height, width, (4.3 * width, 3.4 * height))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (cost, number, column, label, curves) in zip(axes.flat, panels, strict=False):
        for color, marker, (name, prefix) in zip(COLORS, MARKERS, curves.items(), strict=False):
            rows = [r for r in tables[number]["rows"] if cost in r and column in r and r["row"].startswith(prefix)]
            x, y = [float(row[cost]) for row in rows], [float(row[column]) for row in rows]
            axis.plot(x, y, marker=marker, color=color, label=name)
            for row, point in zip(rows, zip(x, y, strict=True), strict=True):
                size = row["row"].partition("VAN-")[2][:2]
                axis.annotate(size, point, (5, -10), textcoords="offset points", fontsize=9)
        axis.set(
            xlabel="parameters, millions" if cost == "params" else "FLOPs, 1e9 multiply-adds",
            ylabel=label,
        )
        axis.margins(0.12)
        axis.legend(title=f"paper, table {number}", loc="lower right")
    save_figure(figure, file)


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
