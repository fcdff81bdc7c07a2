#!/usr/bin/env python
"""Measure throughput, latency and memory of models, each in alternation with a reference in the same process.

python tools/analysis/benchmark.py                                              # B0 and B2 against mmpretrain's VAN
python tools/analysis/benchmark.py --backbones b2 --cases 512x1 --mode train
python tools/analysis/benchmark.py --configs seg/upernet_van_b2 --cases 512x1   # whole models
python tools/analysis/benchmark.py --configs mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512 --backbone b2
python tools/analysis/benchmark.py --backbones b2 --cases 224x1 448x1 672x1 896x1 1120x1 --plot area.png
python tools/analysis/benchmark.py --backbones b0 b1 b2 b3 b4 swin-t swin-s swin-b --cases 224x8   # table 4

The reference always runs in fp32 and is never folded. It is
  for a VAN: mmpretrain's VAN of the same size with the same weights
  for another backbone: mmpretrain's VAN-B2
  for a config with a VAN: the same model on mmpretrain's VAN
  for a config with --backbone: the model of the unchanged config, unless its backbone is that VAN already

VAN is folded for inference (van_mm.fold). A ratio is the reference's time divided by the model's: the median over the
rounds, then its quartiles. "of the limit" is the time of VAN's dense convolutions alone, computed as plain matrix
products, divided by the model's time.
"""

import argparse
import copy
import json
import platform
import statistics
from importlib.util import find_spec


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--backbones",
        nargs="+",
        default=["b0", "b2"],
        metavar="NAME",
        help="backbones: b0 to b6, swin-t to -b, convnext-t to -b, resnet-50, -101 (default: b0 b2)",
    )
    models.add_argument("--configs", nargs="+", help="whole models of these configs instead, for inference only")
    parser.add_argument(
        "--backbone", metavar="ARCH", help="with --configs: replace each backbone by this VAN, b0 to b6"
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["224x1", "224x8", "512x1"],
        metavar="SIZExBATCH",
        help="image side, or HEIGHTxWIDTH, and batch size (default: 224x1 224x8 512x1)",
    )
    parser.add_argument(
        "--mode",
        choices=["infer", "train"],
        default="infer",
        help="infer: forward pass; train: forward and backward pass (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype", choices=["fp32", "bf16"], default="fp32", help="precision of the model (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    parser.add_argument("--no-fold", action="store_true", help="do not fold the model for inference")
    parser.add_argument("--onnx", action="store_true", help="also time the exported backbone in onnxruntime")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="also write a PNG: images/s of each row; with several sizes the time by image area; with three or more "
        "backbones the paper's top-1 by images/s (figure 5)",
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import torch
    from rich.console import Console
    from rich.progress import track

    from van_mm.analysis.backbones import check_backbone_names
    from van_mm.apis.configs import find_config
    from van_mm.ops import library
    from van_mm.utils.errors import UserError, wrap_device_errors

    check_backbone_names(args.backbones)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU is visible")
    with wrap_device_errors(args.device):
        torch.empty(0, device=args.device)
    if args.backbone and not args.configs:
        raise UserError("--backbone goes with --configs. Give --backbones to measure backbones alone.")
    if args.configs and args.mode == "train":
        raise UserError("--configs measures inference only. Leave --mode train out, or give --backbones.")
    if args.onnx and (args.configs or args.mode == "train" or args.dtype == "bf16" or args.device != "cpu"):
        raise UserError(
            "--onnx times inference of backbones in fp32 on the CPU. Use tools/deploy/export_onnx.py for configs."
        )
    if args.onnx and find_spec("onnxruntime") is None:
        raise UserError("--onnx needs onnx and onnxruntime: pip install onnx onnxruntime")
    for name in args.configs or ():
        find_config(name)
    if args.threads:
        torch.set_num_threads(args.threads)
    sizes = {case: parse_case(case) for case in args.cases}

    machine = dict(
        device=torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
        kernels=library.is_loaded,
    )
    print(
        ", ".join(f"{key} {value}" for key, value in machine.items()) + "; the reference runs in fp32, channels first"
    )

    options = dict(
        whole_models=bool(args.configs), backbone=args.backbone, mode=args.mode, dtype=args.dtype, rounds=args.rounds,
        device=args.device, compiled=args.compile, folded=not args.no_fold, onnx=args.onnx,
    )  # fmt: skip
    work = [(name, case) for name in args.configs or args.backbones for case in sizes]
    rows = [
        measure_case(name, case, sizes[case], **options)
        for name, case in track(work, "measuring", console=Console(stderr=True))
    ]
    for row in rows:
        print(format_row(row))
    print(f"geometric mean of the ratios: {statistics.geometric_mean(row['ratio'] for row in rows):.2f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(dict(machine=machine, rows=rows), file, indent=1)
    if args.plot:
        plot_benchmark(rows, sizes, args.plot)


def parse_case(text: str) -> tuple[int, int, int]:
    """Return height, width and batch size of a case such as ``512x1`` or ``256x192x1``."""
    from van_mm.utils.errors import UserError

    try:
        *size, batch = map(int, text.split("x"))
        height, width = size * 2 if len(size) == 1 else size
    except ValueError as error:
        raise UserError(
            f"--cases {text} is not a case. Give SIDExBATCH or HEIGHTxWIDTHxBATCH, such as 512x1."
        ) from error
    return height, width, batch


def build_reference_backbone(van, arch: str):
    """Build mmpretrain's VAN with the weights of ``van``, and with the official eps of LayerNorm."""
    from mmpretrain.models import VAN as Reference

    from van_mm.checkpoints.key_maps import to_mmpretrain_key
    from van_mm.models.backbones.van import get_arch_settings

    settings = get_arch_settings(arch)
    arch_dict = dict(embed_dims=settings["embed_dims"], depths=settings["depths"], ffn_ratios=settings["mlp_ratios"])
    reference = Reference(arch=arch_dict, out_indices=van.out_indices, norm_cfg=dict(type="LN", eps=1e-6))
    reference.load_state_dict({to_mmpretrain_key(key): value for key, value in van.state_dict().items()})
    return reference


def build_backbone_pair(name: str) -> tuple:
    """Build a backbone and its reference: mmpretrain's VAN of the same size, or VAN-B2 for another network."""
    from van_mm.analysis.backbones import VAN_ARCHS, build_backbone

    arch = name if name in VAN_ARCHS else "b2"
    backbone = build_backbone(name)
    return backbone, build_reference_backbone(backbone if name in VAN_ARCHS else build_backbone(arch), arch)


def build_model_pair(name: str, backbone: str | None) -> tuple:
    """Build a config's model and its reference, as the module's docstring lists them."""
    import torch

    from van_mm import swap_backbone
    from van_mm.apis.backbone_swap_rules import is_van
    from van_mm.apis.build import build_trial_model
    from van_mm.apis.configs import get_experiment_config
    from van_mm.utils.errors import UserError

    torch.manual_seed(0)
    cfg = get_experiment_config(name)
    if backbone:
        reference = build_trial_model(cfg)
        if swap_backbone(cfg, backbone):
            return build_trial_model(cfg), reference
    if not is_van(cfg.model.get("backbone", {"type": None}), cfg.default_scope):
        raise UserError(f"--configs {name} has no VAN; put one in with --backbone b2")
    model = build_trial_model(cfg)
    reference = copy.deepcopy(model)
    reference.backbone = build_reference_backbone(model.backbone, cfg.model.backbone.arch)
    return model, reference


def measure_case(
    name: str,
    case: str,
    size: tuple[int, int, int],
    *,
    whole_models: bool,
    backbone: str | None,
    mode: str,
    dtype: str,
    rounds: int,
    device: str,
    compiled: bool,
    folded: bool,
    onnx: bool,
) -> dict:
    """Measure a model in alternation with its reference, and return the row of figures.

    Args:
        name (str): Backbone, or config if ``whole_models``.
        case (str): Label of the size.
        size (tuple[int, int, int]): Height, width and batch size.
        whole_models (bool): Measure the config's whole model instead of a backbone.
        backbone (str | None): VAN that replaces the config's backbone.
        mode (str): 'infer' or 'train'.
        dtype (str): 'fp32' or 'bf16'.
        rounds (int): Timed rounds.
        device (str): Device of both models.
        compiled (bool): Compile the model for inference.
        folded (bool): Fold the model for inference.
        onnx (bool): Also time the model in onnxruntime.
    """
    import torch

    from van_mm.analysis.backbones import VAN_ARCHS
    from van_mm.analysis.benchmarking import compute_speedup, count_saved_bytes, make_training_call, time_alternately

    height, width, batch = size
    model, reference = build_model_pair(name, backbone) if whole_models else build_backbone_pair(name)
    images = torch.randn(batch, 3, height, width, device=device)
    model, reference = model.to(device), reference.to(device)
    row = dict(model=name, case=case, mode=mode, dtype=dtype)
    torch_dtype = torch.bfloat16 if dtype == "bf16" else torch.float32
    if mode == "train":
        row["kept_mb"] = count_saved_bytes(model, images) / 2**20
        row["reference_kept_mb"] = count_saved_bytes(reference, images) / 2**20
        calls = dict(
            model=make_training_call(model, images, torch_dtype),
            reference=make_training_call(reference, images, torch.float32),
        )
    else:
        options = dict(limit=name in VAN_ARCHS, whole_models=whole_models, compiled=compiled, folded=folded, onnx=onnx)
        calls = make_inference_calls(model, reference, images, torch_dtype, **options)
    times = time_alternately(calls, rounds)
    seconds = {key: statistics.median(values) for key, values in times.items()}
    ratio, low, high = compute_speedup(times["reference"], times["model"])
    row |= {f"{key}_seconds": seconds[key] for key in ("limit", "onnx") if key in seconds}
    row |= dict(seconds=seconds["model"], reference_seconds=seconds["reference"], images_per_s=batch / seconds["model"])
    return row | dict(ratio=ratio, ratio_low=low, ratio_high=high)


def make_inference_calls(
    model, reference, images, dtype, *, limit: bool, whole_models: bool, compiled: bool, folded: bool, onnx: bool
) -> dict:
    """Return the functions to time by name: 'model', 'reference', and on demand 'limit' and 'onnx'."""
    import torch

    from van_mm import fold
    from van_mm.analysis.benchmarking import WholeModel, make_inference_call, make_matmul_call

    model.eval()
    calls = {}
    if limit:
        calls["limit"] = make_matmul_call(model, images, dtype)
    if onnx:
        calls["onnx"] = make_onnx_call(model, images)
    if folded:
        fold(model)
    if whole_models:
        model, reference = WholeModel(model), WholeModel(reference)
    if compiled:
        model = torch.compile(model)
    calls["model"] = make_inference_call(model, images, dtype)
    calls["reference"] = make_inference_call(reference, images, torch.float32)
    return calls


def make_onnx_call(model, images):
    """Return a function that runs a folded copy of a backbone in onnxruntime, on as many threads as PyTorch uses."""
    import tempfile

    from van_mm import fold
    from van_mm.apis.export import open_onnx_session, trace_to_onnx

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        trace_to_onnx(fold(copy.deepcopy(model)), images, file.name)
        session = open_onnx_session(file.name)
    return lambda: session.run(None, {"images": images.numpy()})


def format_row(row: dict) -> str:
    """Return the printed line of a row."""
    line = f"{row['model']:<40} {row['case']:>9} {row['mode']} {row['dtype']} {row['images_per_s']:8.2f} images/s "
    line += f"{row['ratio']:5.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    if "limit_seconds" in row:
        line += f"  {row['limit_seconds'] / row['seconds']:.0%} of the limit"
    if "onnx_seconds" in row:
        line += f"  onnxruntime takes {row['onnx_seconds'] / row['seconds']:.2f} of this time"
    if "kept_mb" in row:
        share = row["kept_mb"] / row["reference_kept_mb"]
        line += f"  saves {row['kept_mb']:.0f} MB for the backward pass, {share:.2f} of the reference's"
    return line


def plot_benchmark(rows: list[dict], sizes: dict[str, tuple[int, int, int]], file: str) -> None:
    """Plot images/s as bars, with several sizes the time by image area, and with three backbones top-1 by images/s."""
    from van_mm.paper.tables import get_imagenet_top1
    from van_mm.visualization.figures import make_subplots, save_figure

    top1 = get_imagenet_top1()
    rows_with_top1 = [row for row in rows if row["model"] in top1]
    by_area = len({sizes[row["case"]][:2] for row in rows}) > 1
    by_top1 = len({row["model"] for row in rows_with_top1}) > 2
    panels = 1 + by_area + by_top1
    figure, axes = make_subplots(1, panels, (5.5 * panels, max(4, 0.45 * len(rows) + 1.5)))
    draw_throughput(axes[0][0], rows)
    if by_area:
        draw_time_by_area(axes[0][1], rows, sizes)
    if by_top1:
        draw_top1(axes[0][-1], rows_with_top1, top1)
    save_figure(figure, file)


def draw_throughput(axis, rows: list[dict]) -> None:
    """Draw two bars for each row: images/s of the model and of its reference."""
    from van_mm.visualization.figures import COLORS

    positions = range(len(rows))
    axis.barh([i - 0.2 for i in positions], [row["images_per_s"] for row in rows], 0.4, label="model", color=COLORS[0])
    reference = [row["images_per_s"] * row["seconds"] / row["reference_seconds"] for row in rows]
    axis.barh([i + 0.2 for i in positions], reference, 0.4, label="reference", color=COLORS[1])
    labels = [f"{row['model']} {row['case']}" for row in rows]
    title = f"measured: {rows[0]['mode']}, {rows[0]['dtype']}"
    axis.set(yticks=list(positions), yticklabels=labels, xlabel="images / s", title=title)
    axis.invert_yaxis()
    axis.legend()


def draw_time_by_area(axis, rows: list[dict], sizes: dict[str, tuple[int, int, int]]) -> None:
    """Draw two curves for each model: time per image by image area of the model and of its reference."""
    from van_mm.visualization.figures import COLORS

    names = list(dict.fromkeys(row["model"] for row in rows))
    for name, color in zip(names, COLORS * len(names), strict=False):
        curve = sorted((row for row in rows if row["model"] == name), key=lambda row: sizes[row["case"]][:2])
        for key, style, suffix in (("seconds", "o-", ""), ("reference_seconds", "s--", ", reference")):
            pixels = [sizes[row["case"]][0] * sizes[row["case"]][1] / 1e6 for row in curve]
            milliseconds = [row[key] / sizes[row["case"]][2] * 1e3 for row in curve]
            axis.plot(pixels, milliseconds, style, color=color, label=name + suffix)
    axis.set(xlabel="image area, megapixels", ylabel="ms per image", title="measured: time by area",
             xlim=(0, None), ylim=(0, None))  # fmt: skip
    axis.legend()


def draw_top1(axis, rows: list[dict], top1: dict[str, float]) -> None:
    """Draw a point for each row: the paper's top-1 by the measured images/s. VAN has a separate color."""
    from van_mm.analysis.backbones import VAN_ARCHS
    from van_mm.visualization.figures import COLORS

    for row in rows:
        point = (row["images_per_s"], top1[row["model"]])
        axis.plot(*point, "o", color=COLORS[0] if row["model"] in VAN_ARCHS else COLORS[1])
        label = f"{row['model']} {row['case']}"
        axis.annotate(label, point, (4, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel="measured: images / s", ylabel="paper: ImageNet-1K top-1, %", title="accuracy by throughput")
    axis.margins(0.15)


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
