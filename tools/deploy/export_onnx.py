#!/usr/bin/env python
"""Write a trained model as ONNX, and see that onnxruntime computes the same.

python tools/deploy/export_onnx.py configs/cls/van_b2_in1k.py work_dirs/van_b2_in1k/epoch_300.pth
python tools/deploy/export_onnx.py configs/seg/upernet_van_b2.py upernet.pth --out upernet.onnx --size 512 512

The input is images (N, 3, H, W), float, BGR from 0 to 255 as OpenCV reads them; batch, height and width are free.
Outputs: class scores; segmentation logits at the image's size; heat maps of keypoints; of detectors the maps behind
the neck.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _arguments import add_config_arguments  # noqa: E402

SIZES = {"mmpretrain": (224, 224), "mmseg": (512, 512), "mmpose": (256, 192), "mmdet": (800, 1216)}
TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, or a name below configs/")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the checkpoint's name with .onnx")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="to trace and compare at")
    parser.add_argument("--no-fold", action="store_true", help="leave BatchNorm and LayerScale as they are")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import statistics

    import torch

    from van_mm.analysis.speed import alternate, inference
    from van_mm.deploy import deviations, export_onnx, open_session
    from van_mm.launch import UserError, build_model, load_config

    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        raise UserError("export needs onnx and onnxruntime: pip install onnx onnxruntime")
    cfg = load_config(args)
    model = build_model(cfg, args.checkpoint)
    height, width = args.size or SIZES[cfg.default_scope]
    if min(height, width) < 32:
        raise UserError(f"--size {height} {width}: VAN halves an image five times; give 32 or more")
    out = args.out or Path(Path(args.checkpoint).stem + ".onnx")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.draft")
    try:
        deployed = export_onnx(model, cfg.default_scope, draft, (height, width), not args.no_fold)
        session = open_session(draft)
        for batch, h, w in ((1, height, width), (2, height + 45, max(32, width - 19))):
            worst = max(deviations(deployed, session, torch.rand(batch, 3, h, w) * 255))
            print(f"{batch} x 3 x {h} x {w}: onnxruntime differs by {worst:.1e} of the greatest value")
            if not worst <= TOLERANCE:
                raise UserError(f"onnxruntime differs by {worst:.1e} at {batch} x 3 x {h} x {w}; nothing was written")
        images = torch.rand(1, 3, height, width) * 255
        times = alternate(
            dict(torch=inference(deployed, images, torch.float32),
                 onnx=lambda: session.run(None, {"images": images.numpy()})), rounds=5)  # fmt: skip
        onnx, ours = (statistics.median(times[name]) * 1e3 for name in ("onnx", "torch"))
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    print(f"one image of {height} x {width}: onnxruntime {onnx:.0f} ms, PyTorch {ours:.0f} ms")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, outputs {', '.join(o.name for o in session.get_outputs())}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
