#!/usr/bin/env python
"""Throughput, latency, training step and memory of backbones, each in turn with a reference in the same process.

python tools/analysis/benchmark.py                                              # B0 and B2 against mmpretrain's VAN
python tools/analysis/benchmark.py --backbones b2 --cases 512x1 --mode train
python tools/analysis/benchmark.py --configs seg/upernet_van_b2 --cases 512x1   # whole models, backbone swapped
python tools/analysis/benchmark.py --configs mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512 --backbone b2
python tools/analysis/benchmark.py --backbones b2 --cases 224x1 448x1 672x1 896x1 1120x1 --plot area.png
python tools/analysis/benchmark.py --backbones b0 b1 b2 b3 b4 swin-t swin-s swin-b --cases 224x8   # table 4

VAN is folded for inference (van_mm.fold); "of the limit" is the time of its dense convolutions alone, as plain matrix
products, by its own. The reference is mmpretrain's VAN of the same size as it is shipped, with the same weights, in
fp32; with --configs it is the same config on that backbone, or, where --backbone puts VAN into a config, that config as
it ships. A ratio is the median over the rounds of the reference's time by ours, followed by its quartiles.
"""

import argparse
import copy
import json
import platform
import statistics
from importlib.util import find_spec


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--backbones", nargs="+", default=["b0", "b2"], metavar="NAME",
                      help="b0 to b6, swin-t to -b, convnext-t to -b, resnet-50, -101 (default: b0 b2)")  # fmt: skip
    what.add_argument("--configs", nargs="+", help="whole experiments instead of backbones, inference only")
    parser.add_argument("--backbone", metavar="ARCH", help="with --configs: VAN of this size in place of theirs")
    parser.add_argument("--cases", nargs="+", default=["224x1", "224x8", "512x1"], metavar="SIZExBATCH",
                        help="image side, or HEIGHTxWIDTH, and batch (default: 224x1 224x8 512x1)")  # fmt: skip
    parser.add_argument("--mode", choices=["infer", "train"], default="infer")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="ours; the reference stays fp32")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours")
    parser.add_argument("--no-fold", action="store_true", help="leave ours unfolded for inference")
    parser.add_argument("--onnx", action="store_true", help="time onnxruntime on the exported backbone too")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="write a PNG: images/s of each row; time by image area; with three or more backbones the "
        "paper's top-1 by images/s (figure 5)",
    )
    return parser.parse_args()


def case(text: str) -> tuple[int, int, int]:
    """Height, width and batch of ``512x1`` or ``256x192x1``."""
    from van_mm.launch import UserError

    try:
        *size, batch = map(int, text.split("x"))
        height, width = size * 2 if len(size) == 1 else size
    except ValueError as error:
        raise UserError(f"--cases {text}: give SIDExBATCH or HEIGHTxWIDTHxBATCH, such as 512x1") from error
    return height, width, batch


def reference_of(van, arch: str):
    """mmpretrain's VAN as it is shipped, but for LayerNorm's eps, with the weights of ``van``."""
    from mmpretrain.models import VAN as Reference

    from van_mm.models.van import get_arch
    from van_mm.weights import mmpretrain_name

    dims = get_arch(arch)
    dims = dict(embed_dims=dims["embed_dims"], depths=dims["depths"], ffn_ratios=dims["mlp_ratios"])
    reference = Reference(arch=dims, out_indices=van.out_indices, norm_cfg=dict(type="LN", eps=1e-6))
    reference.load_state_dict({mmpretrain_name(key): value for key, value in van.state_dict().items()})
    return reference


def backbones(name: str) -> tuple:
    """A backbone, and the reference: of its size with its weights, or of B2's for another network."""
    from van_mm.analysis.backbones import SIZES, build_backbone

    size = name if name in SIZES else "b2"
    backbone = build_backbone(name)
    return backbone, reference_of(backbone if name in SIZES else build_backbone(size), size)


def whole_models(name: str, backbone: str | None) -> tuple:
    """A config's model, and the same one on the reference backbone; or with a VAN, and as it ships."""
    import torch

    from van_mm import swap_backbone
    from van_mm.configs import get_experiment
    from van_mm.launch import UserError
    from van_mm.swap import is_van
    from van_mm.trial import trial_model

    torch.manual_seed(0)
    cfg = get_experiment(name)
    if backbone:
        theirs = trial_model(cfg)
        if swap_backbone(cfg, backbone):
            return trial_model(cfg), theirs
    if not is_van(cfg.model.get("backbone", {"type": None}), cfg.default_scope):
        raise UserError(f"--configs {name} has no VAN; put one in with --backbone b2")
    ours = trial_model(cfg)
    theirs = copy.deepcopy(ours)
    theirs.backbone = reference_of(ours.backbone, cfg.model.backbone.arch)
    return ours, theirs


def measure(name: str, text: str, size: tuple[int, int, int], args: argparse.Namespace) -> dict:
    """One row: a model on one case, in turn with its reference."""
    import torch

    from van_mm import fold
    from van_mm.analysis.backbones import SIZES
    from van_mm.analysis.speed import Whole, alternate, inference, kept_bytes, products, ratio, training

    height, width, batch = size
    ours, theirs = whole_models(name, args.backbone) if args.configs else backbones(name)
    images = torch.randn(batch, 3, height, width, device=args.device)
    ours, theirs = ours.to(args.device), theirs.to(args.device)
    row = dict(model=name, case=text, mode=args.mode, dtype=args.dtype)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    if args.mode == "train":
        row["kept_mb"], row["reference_kept_mb"] = kept_bytes(ours, images) / 2**20, kept_bytes(theirs, images) / 2**20
        functions = dict(ours=training(ours, images, dtype), reference=training(theirs, images, torch.float32))
    else:
        ours.eval()
        functions = {}
        if name in SIZES:
            functions["limit"] = products(ours, images, dtype)
        if args.onnx:
            functions["onnx"] = onnx_session(ours, images)
        if not args.no_fold:
            fold(ours)
        if args.configs:
            ours, theirs = Whole(ours), Whole(theirs)
        if args.compile:
            ours = torch.compile(ours)
        functions |= dict(ours=inference(ours, images, dtype), reference=inference(theirs, images, torch.float32))
    times = alternate(functions, args.rounds)
    seconds = {key: statistics.median(values) for key, values in times.items()}
    faster, low, high = ratio(times["reference"], times["ours"])
    row |= {f"{key}_seconds": seconds[key] for key in ("limit", "onnx") if key in seconds}
    row |= dict(seconds=seconds["ours"], reference_seconds=seconds["reference"], images_per_s=batch / seconds["ours"])
    return row | dict(ratio=faster, ratio_low=low, ratio_high=high)


def onnx_session(model, images):
    """A call of a folded copy of a backbone by onnxruntime, on as many threads as PyTorch has."""
    import tempfile

    from van_mm import fold
    from van_mm.deploy import open_session, trace

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        trace(fold(copy.deepcopy(model)), images, file.name)
        session = open_session(file.name)
    return lambda: session.run(None, {"images": images.numpy()})


def plot(rows: list[dict], sizes: dict[str, tuple[int, int, int]], file: str) -> None:
    """Bars of images/s; if there is more than one size, time by area; with three backbones, top-1 by images/s."""
    from van_mm.analysis.backbones import SIZES
    from van_mm.paper import imagenet_top1
    from van_mm.visualization.figures import COLOURS, pyplot, save

    blue, orange, *more = COLOURS
    top1 = imagenet_top1()
    names = list(dict.fromkeys(row["model"] for row in rows))
    known = [row for row in rows if row["model"] in top1]
    by_area = len({sizes[row["case"]][:2] for row in rows}) > 1
    by_top1 = len({row["model"] for row in known}) > 2
    panels = 1 + by_area + by_top1
    figure, axes = pyplot.subplots(
        1, panels, figsize=(5.5 * panels, max(4, 0.45 * len(rows) + 1.5)), layout="constrained", squeeze=False
    )
    bars, *others = axes[0]
    places = range(len(rows))
    bars.barh([i - 0.2 for i in places], [row["images_per_s"] for row in rows], 0.4, label="ours", color=blue)
    reference = [row["images_per_s"] * row["seconds"] / row["reference_seconds"] for row in rows]
    bars.barh([i + 0.2 for i in places], reference, 0.4, label="reference", color=orange)
    labels = [f"{row['model']} {row['case']}" for row in rows]
    bars.set(yticks=list(places), yticklabels=labels, xlabel="images / s",
             title=f"measured: {rows[0]['mode']}, {rows[0]['dtype']}")  # fmt: skip
    bars.invert_yaxis()
    bars.legend()
    if by_area:
        area = others.pop(0)
        for name, color in zip(names, [blue, orange, *more] * len(names), strict=False):
            mine = sorted((row for row in rows if row["model"] == name), key=lambda row: sizes[row["case"]][:2])
            for key, style, what in (("seconds", "o-", ""), ("reference_seconds", "s--", ", reference")):
                pixels = [sizes[row["case"]][0] * sizes[row["case"]][1] / 1e6 for row in mine]
                seconds = [row[key] / sizes[row["case"]][2] * 1e3 for row in mine]
                area.plot(pixels, seconds, style, color=color, label=name + what)
        area.set(xlabel="image area, megapixels", ylabel="ms per image", title="measured: time by area",
                 xlim=(0, None), ylim=(0, None))  # fmt: skip
        area.legend()
    if by_top1:
        points = others.pop(0)
        for row in known:
            color = blue if row["model"] in SIZES else orange
            points.plot(row["images_per_s"], top1[row["model"]], "o", color=color)
            points.annotate(labels[rows.index(row)], (row["images_per_s"], top1[row["model"]]), (4, 4),
                            textcoords="offset points", fontsize=8)  # fmt: skip
        points.set(xlabel="measured: images / s", ylabel="paper: ImageNet-1K top-1, %", title="accuracy by throughput")
        points.margins(0.15)
    save(figure, file)


def main(args: argparse.Namespace) -> None:
    import torch
    from rich.console import Console
    from rich.progress import track

    from van_mm import ops
    from van_mm.analysis.backbones import NAMES
    from van_mm.configs import find_config
    from van_mm.launch import UserError, device_errors

    unknown = set(args.backbones) - set(NAMES)
    if unknown:
        raise UserError(f"--backbones: no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU is visible")
    with device_errors(args.device):
        torch.empty(0, device=args.device)
    if args.backbone and not args.configs:
        raise UserError("--backbone goes with --configs; for the bare backbone give --backbones")
    if args.configs and args.mode == "train":
        raise UserError("--configs measures inference; leave --mode train out, or give --backbones")
    if args.onnx and (args.configs or args.mode == "train" or args.dtype == "bf16" or args.device != "cpu"):
        raise UserError(
            "--onnx times backbones, inference in fp32 on the CPU; tools/deploy/export_onnx.py takes configs"
        )
    if args.onnx and find_spec("onnxruntime") is None:
        raise UserError("--onnx needs onnx and onnxruntime: pip install onnx onnxruntime")
    for name in args.configs or ():
        find_config(name)
    if args.threads:
        torch.set_num_threads(args.threads)
    cases = {text: case(text) for text in args.cases}
    work = [(name, text) for name in args.configs or args.backbones for text in cases]
    machine = dict(
        device=torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.machine(),
        threads=torch.get_num_threads(), torch=torch.__version__, capability=torch.backends.cpu.get_cpu_capability(),
        kernels=ops.loaded,
    )  # fmt: skip
    print(
        ", ".join(f"{key} {value}" for key, value in machine.items()) + "; the reference runs in fp32, channels first"
    )
    rows = [
        measure(name, text, cases[text], args) for name, text in track(work, "measuring", console=Console(stderr=True))
    ]
    for row in rows:
        line = f"{row['model']:<40} {row['case']:>9} {row['mode']} {row['dtype']} {row['images_per_s']:8.2f} images/s "
        line += f"{row['ratio']:5.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        if "limit_seconds" in row:
            line += f"  {row['limit_seconds'] / row['seconds']:.0%} of the limit"
        if "onnx_seconds" in row:
            line += f"  onnxruntime {row['onnx_seconds'] / row['seconds']:.2f} of our time"
        if "kept_mb" in row:
            line += (
                f"  keeps {row['kept_mb']:.0f} MB, {row['kept_mb'] / row['reference_kept_mb']:.2f} of the reference's"
            )
        print(line)
    print(f"geometric mean of the ratios: {statistics.geometric_mean(row['ratio'] for row in rows):.2f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(dict(machine=machine, rows=rows), file, indent=1)
    if args.plot:
        plot(rows, cases, args.plot)


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
