#!/usr/bin/env python
"""Draw the effective receptive fields of backbones side by side (figure 8).

python tools/visualization/vis_erf.py --backbones b2 resnet-50 convnext-t swin-t
python tools/visualization/vis_erf.py --inputs photos/ --num 100 --size 1120 \\
    --model cls/van_b2_in1k CHECKPOINT --model mmpretrain::convnext/convnext-tiny_32xb128_in1k.py CHECKPOINT

The field is the absolute gradient of the sum of the positive features at the center of the last feature map, with
respect to each input pixel and averaged over the images.

FILE.png shows the field on a logarithmic scale. FILE.json and the printed table give the size of the central square
that holds 20, 30, 50 and 99% of the field, as a share of the image's area.

Without --inputs the images are noise, which is sufficient to compare architectures. The networks of --backbones have
random weights.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments, add_out_argument, load_models  # noqa: E402  found through the line above


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=[],
        metavar="NAME",
        help="backbones with random weights: b0 to b6, swin-t to -b, convnext-t to -b, resnet-50, -101",
    )
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "CHECKPOINT"),
        help="trained model to show; may be repeated",
    )
    parser.add_argument(
        "--inputs", nargs="+", metavar="INPUT", help="images, folders, or quoted patterns (default: noise)"
    )
    parser.add_argument(
        "--num", type=int, default=8, metavar="N", help="number of images (default: %(default)s; figure 8 uses 100)"
    )
    parser.add_argument(
        "--size", type=int, default=1120, help="side of the images in pixels (default: %(default)s, as in figure 8)"
    )
    add_out_argument(parser, "erf.png")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from van_mm.analysis.backbones import BACKBONE_NAMES, build_backbone, check_backbone_names
    from van_mm.utils.errors import UserError
    from van_mm.visualization.erf import SHARES, compute_area_shares, compute_receptive_field, to_log_scale
    from van_mm.visualization.figures import colormaps, save_image_grid

    if not args.backbones and not args.model:
        raise UserError(
            f"no network to show. Give --backbones, of {', '.join(BACKBONE_NAMES)}, or --model CONFIG CHECKPOINT."
        )
    if args.num < 1 or args.size < 32:
        raise UserError("--num must be at least 1, and --size at least 32")
    check_backbone_names(args.backbones)
    images = load_images(args.inputs, args.num, args.size)
    networks = {name: (build_backbone(name), None) for name in args.backbones}
    for (name, _), (_, model) in zip(args.model, load_models(args, args.model), strict=True):
        networks[Path(name).stem] = model.backbone, model.data_preprocessor

    # The field of each network.
    areas, panels, titles = {}, [], []
    for name, (backbone, preprocessor) in networks.items():
        backbone.eval()
        batches = (normalize(image, preprocessor) for image in track(images, name, console=Console(stderr=True)))
        field = compute_receptive_field(backbone, batches)
        areas[name] = {f"{share:.0%}": area for share, area in compute_area_shares(field).items()}
        panels.append((colormaps["viridis"](to_log_scale(field))[..., :3] * 255).astype(np.uint8))
        titles.append(f"{name}\n99% in {areas[name]['99%']:.1%} of the area")

    save_image_grid([panels], args.out, titles=[titles])
    content = dict(size=args.size, num=len(images), areas=areas)
    args.out.with_suffix(".json").write_text(json.dumps(content, indent=1))
    print("share of the image's area that holds this much of the field")
    print(f"{'':<32}" + "".join(f"{share:>9.0%}" for share in SHARES))
    for name, row in areas.items():
        print(f"{name:<32}" + "".join(f"{area:>9.2%}" for area in row.values()))
    print(f"wrote {args.out} and {args.out.with_suffix('.json')}")


def load_images(inputs: list[str] | None, num: int, size: int) -> list:
    """Return ``num`` images (size, size, 3), or fewer if ``inputs`` has fewer. Without ``inputs`` they are noise."""
    import cv2
    import numpy as np

    from van_mm.utils.image_files import find_input_files, read_image

    if not inputs:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(num)]
    files = find_input_files(inputs)[:num]
    if len(files) < num:
        print(f"there are only {len(files)} images instead of {num}")
    return [cv2.resize(read_image(file), (size, size)) for file in files]


def normalize(image, preprocessor):
    """Return an image as a batch (1, 3, H, W) that is normalized by a preprocessor, or to about (-2, 2) without one."""
    import torch

    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    if preprocessor is None:
        return (pixels[None].float() - 127.5) / 60
    return preprocessor(dict(inputs=[pixels]), False)["inputs"]


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
