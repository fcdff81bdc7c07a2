#!/usr/bin/env python
"""Effective receptive fields of backbones side by side (figure 8).

python tools/visualization/vis_erf.py --backbones b2 resnet-50 convnext-t swin-t
python tools/visualization/vis_erf.py --inputs photos/ --num 100 --size 1120 \\
    --model cls/van_b2_in1k CHECKPOINT --model mmpretrain::convnext/convnext-tiny_32xb128_in1k.py CHECKPOINT

The field is the absolute gradient of the middle of the last map (its positive features, summed) by each input pixel,
averaged over pictures. FILE.png shows it on a logarithmic scale; FILE.json and the printed table tell how large a
square around the middle, as a share of the picture, holds 20, 30, 50 and 99% of it. Without --inputs the pictures are
noise, which is enough to compare architectures; --backbones have random weights.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments  # noqa: E402  a neighbour of this folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=[], metavar="NAME",
                        help="random weights: b0 to b6, swin-t to -b, convnext-t to -b, resnet-50, -101")  # fmt: skip
    parser.add_argument(
        "--model", nargs=2, action="append", default=[], metavar=("CONFIG", "CHECKPOINT"), help="may be repeated"
    )
    parser.add_argument("--inputs", nargs="+", metavar="INPUT", help="pictures, folders, patterns (default: noise)")
    parser.add_argument("--num", type=int, default=8, metavar="N", help="pictures (default: %(default)s; fig. 8: 100)")
    parser.add_argument("--size", type=int, default=1120, help="pixels a side (default: %(default)s, as in fig. 8)")
    parser.add_argument("--out", type=Path, default=Path("erf.png"), metavar="FILE.png", help="default: %(default)s")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import cv2
    import numpy as np
    import torch
    from rich.console import Console
    from rich.progress import track

    from van_mm.analysis.backbones import NAMES, build_backbone
    from van_mm.errors import UserError
    from van_mm.visualization.erf import SHARES, areas, log_scale, receptive_field
    from van_mm.visualization.figures import colormaps, grid
    from van_mm.visualization.inputs import find_inputs, read_image
    from van_mm.visualization.models import load_models

    if not args.backbones and not args.model:
        raise UserError(f"name --backbones, of {', '.join(NAMES)}, or --model CONFIG CHECKPOINT")
    if args.num < 1 or args.size < 32:
        raise UserError("--num must be at least 1, --size at least 32")
    unknown = set(args.backbones) - set(NAMES)
    if unknown:
        raise UserError(f"--backbones: no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if args.inputs:
        files = find_inputs(args.inputs)[: args.num]
        pictures = [cv2.resize(read_image(file), (args.size, args.size)) for file in files]
        if len(files) < args.num:
            print(f"only {len(files)} pictures, not {args.num}")
    else:
        rng = np.random.default_rng(0)
        pictures = [rng.integers(0, 256, (args.size, args.size, 3), np.uint8) for _ in range(args.num)]
    networks = {name: (build_backbone(name), None) for name in args.backbones}
    for (name, _), (_, model) in zip(args.model, load_models(args, args.model), strict=True):
        networks[Path(name).stem] = model.backbone, model.data_preprocessor

    def normalised(picture, preprocessor):
        pixels = torch.from_numpy(picture.transpose(2, 0, 1).copy())
        if preprocessor is None:
            return (pixels[None].float() - 127.5) / 60
        return preprocessor(dict(inputs=[pixels]), False)["inputs"]

    found, panels = {}, []
    for name, (backbone, preprocessor) in networks.items():
        backbone.eval()
        batches = (normalised(picture, preprocessor) for picture in track(pictures, name, console=Console(stderr=True)))
        field = receptive_field(backbone, batches)
        found[name] = {f"{share:.0%}": area for share, area in areas(field).items()}
        panels.append((colormaps["viridis"](log_scale(field))[..., :3] * 255).astype(np.uint8))
    grid([panels], args.out, titles=[[f"{name}\n99% in {found[name]['99%']:.1%} of the area" for name in networks]])
    args.out.with_suffix(".json").write_text(json.dumps(dict(size=args.size, num=len(pictures), areas=found), indent=1))
    print("share of the picture's area that holds so much of the contributions")
    print(f"{'':<32}" + "".join(f"{share:>9.0%}" for share in SHARES))
    for name, row in found.items():
        print(f"{name:<32}" + "".join(f"{area:>9.2%}" for area in row.values()))
    print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
