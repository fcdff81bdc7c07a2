#!/usr/bin/env python
"""Export a trained model to ONNX, and check that onnxruntime computes the same.

python tools/deploy/export_onnx.py configs/cls/van_b2_in1k.py work_dirs/van_b2_in1k/epoch_300.pth
python tools/deploy/export_onnx.py configs/seg/upernet_van_b2.py upernet.pth --out upernet.onnx --size 1024 1024

The input is a float tensor of images (N, 3, H, W) in BGR from 0 to 255, as OpenCV reads them. Batch size, height and
width are dynamic. The outputs are class scores, segmentation logits at the image's size, heatmaps of keypoints, or for
detectors the feature maps of the neck. The file's metadata have the config and the names of the classes, so that
van_mm.load("upernet.onnx") predicts on images; other programs find the names as JSON under "names".
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _arguments import add_config_arguments, load_config  # noqa: E402  found through the line above

TOLERANCE = 1e-4  # largest difference to PyTorch, relative to the largest value of the output; our choice


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, or a name below configs/")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: the checkpoint's name with .onnx)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="image size of the trace and the comparison (default: the one that the config tests with)",
    )
    parser.add_argument("--no-fold", action="store_true", help="do not fold BatchNorm and LayerScale")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.utils.errors import UserError

    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        raise UserError("export needs onnx and onnxruntime: pip install onnx onnxruntime")
    cfg = load_config(args)

    from van_mm.apis.build import build_model, get_test_image_size
    from van_mm.apis.export import export_onnx, open_onnx_session, write_metadata
    from van_mm.apis.inferencer import get_dataset_meta

    model = build_model(cfg, args.checkpoint)
    height, width = args.size or get_test_image_size(cfg)
    if min(height, width) < 32:
        raise UserError(
            f"--size {height} {width} is too small, because VAN halves an image five times. Give 32 or more."
        )
    out = args.out or Path(Path(args.checkpoint).stem + ".onnx")
    out.parent.mkdir(parents=True, exist_ok=True)

    # The model becomes visible under its name after it has been checked.
    draft = out.with_name(f".{out.name}.draft")
    try:
        deployed = export_onnx(model, cfg.default_scope, draft, (height, width), not args.no_fold)
        if cfg.test_dataloader:
            write_metadata(draft, cfg, get_dataset_meta(cfg, model))
        session = open_onnx_session(draft)
        compare_outputs(deployed, session, height, width)
        onnx_ms, torch_ms = measure_latency(deployed, session, height, width)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    print(f"one image of {height} x {width}: onnxruntime {onnx_ms:.0f} ms, PyTorch {torch_ms:.0f} ms")
    outputs = ", ".join(output.name for output in session.get_outputs())
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, outputs {outputs}")


def compare_outputs(deployed, session, height: int, width: int) -> None:
    """Compare onnxruntime with PyTorch on one image, and on two images of another size, and raise if they differ."""
    import torch

    from van_mm.apis.export import compute_deviations
    from van_mm.utils.errors import UserError

    for batch, h, w in ((1, height, width), (2, height + 45, max(32, width - 19))):
        deviation = max(compute_deviations(deployed, session, torch.rand(batch, deployed.channels, h, w) * 255))
        shape = f"{batch} x {deployed.channels} x {h} x {w}"
        print(f"{shape}: onnxruntime differs by {deviation:.1e} of the largest value")
        if not deviation <= TOLERANCE:  # also for NaN
            raise UserError(
                f"onnxruntime differs by {deviation:.1e} at {shape}, which is more than {TOLERANCE:.0e}. "
                "No file was written."
            )


def measure_latency(deployed, session, height: int, width: int) -> tuple[float, float]:
    """Return the milliseconds that onnxruntime and PyTorch take for one image."""
    import statistics

    import torch

    from van_mm.analysis.benchmarking import make_inference_call, time_alternately

    images = torch.rand(1, deployed.channels, height, width) * 255
    calls = dict(
        torch=make_inference_call(deployed, images, torch.float32),
        onnx=lambda: session.run(None, {"images": images.numpy()}),
    )
    times = time_alternately(calls, rounds=5)
    return statistics.median(times["onnx"]) * 1e3, statistics.median(times["torch"]) * 1e3


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
