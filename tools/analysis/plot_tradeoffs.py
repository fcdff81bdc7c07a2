#!/usr/bin/env python
"""The paper's plots from its own figures, and from what a benchmark measured here.

python tools/analysis/plot_tradeoffs.py --out-dir plots
python tools/analysis/benchmark.py --backbones b0 b1 b2 b3 swin-t swin-s --cases 224x8 --json bench.json
python tools/analysis/plot_tradeoffs.py --benchmark bench.json --out-dir plots

throughput.png (figure 5): ImageNet-1K top-1 by images per second, the paper's on an RTX 3090 and measured ones in
panels of their own. tasks.png (figure 7): a bar for each backbone in each task. cost.png: accuracy by parameters and
FLOPs in each task, as the paper prints them.
"""

import argparse
import json
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--benchmark", nargs="+", default=[], metavar="FILE.json", help="written by benchmark.py --json"
    )
    parser.add_argument("--out-dir", type=Path, default=Path("plots"), metavar="DIR", help="default: %(default)s")
    return parser.parse_args()


def read_benchmark(file: str) -> tuple[str, list[dict]]:
    """What to call the machine of a benchmark, and its rows of inference with backbones whose top-1 is known."""
    from van_mm.errors import UserError
    from van_mm.paper import imagenet_top1

    top1 = imagenet_top1()
    try:
        found = json.loads(Path(file).read_text())
        machine = f"{found['machine']['device']}, {found['machine']['threads']} threads"
        rows = [row for row in found["rows"] if row["mode"] == "infer" and row["model"] in top1]
        rows = [
            dict(name=r["model"], images_per_s=r["images_per_s"], top1=top1[r["model"]], case=r["case"]) for r in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is nothing that benchmark.py --json wrote: {type(error).__name__}: {error}") from error
    if not rows:
        raise UserError(f"{file} has no inference of a backbone whose top-1 the paper gives")
    return machine, rows


def throughput(benchmarks: list[tuple[str, list[dict]]], file: Path) -> None:
    """Figure 5, a panel for the paper and one for each machine: their scales have nothing in common."""
    from van_mm.paper import load_paper
    from van_mm.visualization.figures import COLOURS, pyplot, save

    paper = [
        dict(
            name=row["row"].removeprefix("VAN-").lower(),
            images_per_s=float(row["images_per_s"]),
            top1=float(row["top1"]),
        )
        for row in load_paper()["tables"][4]["rows"]
    ]
    panels = [("paper: RTX 3090", paper)]
    for machine, rows in benchmarks:
        for case in dict.fromkeys(row["case"] for row in rows):
            panels.append((f"measured: {machine}, {case}", [row for row in rows if row["case"] == case]))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 4), layout="constrained", squeeze=False)
    for axis, (title, rows) in zip(axes[0], panels, strict=True):
        for colour, marker, family in zip(COLOURS, "os^D", ("VAN", "Swin", "ConvNeXt", "ResNet"), strict=False):
            mine = sorted((r for r in rows if family_of(r["name"]) == family), key=lambda r: r["images_per_s"])
            if mine:
                x, y = [r["images_per_s"] for r in mine], [r["top1"] for r in mine]
                axis.plot(x, y, marker=marker, color=colour, label=family)
            for row in mine:
                place = (row["images_per_s"], row["top1"])
                offset, side = ((6, 4), "left") if family == "VAN" else ((-6, -12), "right")
                axis.annotate(row["name"], place, offset, textcoords="offset points", fontsize=9, ha=side)
        axis.set(xlabel="images / s at 224x224", ylabel="ImageNet-1K top-1, % (paper)", title=title)
        axis.margins(0.15)
        axis.legend()
    save(figure, file)


def family_of(name: str) -> str:
    """VAN, Swin, ConvNeXt or ResNet."""
    for family in ("Swin", "ConvNeXt", "ResNet"):
        if name.lower().startswith(family.lower()):
            return family
    return "VAN"


def tasks(file: Path) -> None:
    """Figure 7: what backbones of B2's size reach in each task."""
    from van_mm.paper import load_paper
    from van_mm.visualization.figures import COLOURS, pyplot, save

    paper = load_paper()
    others, tables = paper["comparators"], paper["tables"]

    def van(number: int, row: str, column: str) -> float:
        return float(next(r[column] for r in tables[number]["rows"] if r["row"].startswith(row)))

    panels = [
        ("ImageNet-1K\ntop-1, %", others["imagenet1k"], van(7, "VAN-B2", "top1")),
        ("COCO, Mask R-CNN 3x\nbox AP", others["coco_mask_rcnn_3x"], van(11, "Mask R-CNN", "APb")),
        ("ADE20K, UperNet\nmIoU, %", others["ade20k_upernet"], van(12, "UperNet VAN-B2", "mIoU")),
        ("COCO panoptic\nPQ", others["coco_panoptic"], van(14, "VAN-B2", "PQ")),
        ("COCO pose 256x192\nAP", others["coco_pose_256x192"], van(15, "VAN-B2, 256x192", "AP")),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 3.6), layout="constrained")
    colours = dict(zip(("VAN-B2", "Swin-T", "ConvNeXt-T", "PVT"), COLOURS, strict=False))
    for axis, (title, peers, ours) in zip(axes, panels, strict=True):
        pvt = next((peers[name] for name in ("PVT-Medium", "PVT-S") if name in peers), None)
        bars = {"PVT": pvt, "Swin-T": peers.get("Swin-T"), "ConvNeXt-T": peers.get("ConvNeXt-T"), "VAN-B2": ours}
        bars = {name: float(value) for name, value in bars.items() if value is not None}
        drawn = axis.bar(list(bars), list(bars.values()), color=[colours[name] for name in bars], width=0.65)
        axis.bar_label(drawn, fmt="%.1f", fontsize=9)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(min(bars.values()) - 3, max(bars.values()) + 1)
        axis.tick_params(axis="x", rotation=35, labelsize=9)
        axis.grid(axis="x", visible=False)
    figure.suptitle("paper: backbones of about VAN-B2's size (axes do not start at 0)", fontsize=11)
    save(figure, file)


PANELS = [  # table, column, what it is called, rows
    (7, "top1", "ImageNet-1K top-1, %", {"VAN": "VAN"}),
    (9, "AP", "COCO box AP, RetinaNet 1x", {"RetinaNet": "VAN"}),
    (10, "APb", "COCO box AP, Mask R-CNN 1x", {"Mask R-CNN": "VAN"}),
    (12, "mIoU", "ADE20K mIoU, %", {"Semantic FPN": "Semantic FPN", "UperNet": "UperNet"}),
]


def cost(file: Path) -> None:
    """Accuracy by parameters, and where the paper prints them by FLOPs."""
    from van_mm.paper import load_paper
    from van_mm.visualization.figures import COLOURS, MARKERS, pyplot, save

    tables = load_paper()["tables"]
    panels = [
        (axis, number, column, label, series)
        for number, column, label, series in PANELS
        for axis in ("params", "flops")
        if any(axis in row and column in row for row in tables[number]["rows"])
    ]
    width = 3
    height = -(-len(panels) // width)
    figure, axes = pyplot.subplots(
        height, width, figsize=(4.3 * width, 3.4 * height), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (cost_of, number, column, label, series) in zip(axes.flat, panels, strict=False):
        for colour, marker, (name, prefix) in zip(COLOURS, MARKERS, series.items(), strict=False):
            rows = [r for r in tables[number]["rows"] if cost_of in r and column in r and r["row"].startswith(prefix)]
            x, y = [float(r[cost_of]) for r in rows], [float(r[column]) for r in rows]
            axis.plot(x, y, marker=marker, color=colour, label=name)
            for row, place in zip(rows, zip(x, y, strict=True), strict=True):
                size = row["row"].partition("VAN-")[2][:2]
                axis.annotate(size, place, (5, -10), textcoords="offset points", fontsize=9)
        unit = "parameters, millions" if cost_of == "params" else "FLOPs, 1e9 multiply-adds"
        axis.set(xlabel=unit, ylabel=label)
        axis.margins(0.12)
        axis.legend(title=f"paper, table {number}", loc="lower right")
    save(figure, file)


def main(args: argparse.Namespace) -> None:
    benchmarks = [read_benchmark(file) for file in args.benchmark]
    throughput(benchmarks, args.out_dir / "throughput.png")
    tasks(args.out_dir / "tasks.png")
    cost(args.out_dir / "cost.png")
    print(f"wrote throughput.png, tasks.png and cost.png in {args.out_dir}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
