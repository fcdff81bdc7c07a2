#!/usr/bin/env python
"""Draw LKA's attention maps on images (figure 9): absolute values, averaged over the channels.

python tools/visualization/vis_attention.py cls/van_b2_in1k CHECKPOINT cat.jpg --out attention.png
python tools/visualization/vis_attention.py seg/upernet_van_b2 CHECKPOINT street.jpg --blocks 3.1 3.6 3.12 4.3

The figure has a row for each image. It has a column for the last block of each stage, or for each block of --blocks.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments, add_out_argument, load_models  # noqa: E402  found through the line above


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="any config whose backbone is a VAN")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders, or quoted patterns")
    parser.add_argument(
        "--blocks",
        nargs="+",
        metavar="STAGE.BLOCK",
        help="blocks to show, counted from 1, or 'all' (default: the last block of each stage)",
    )
    parser.add_argument("--size", type=int, help="side in pixels to resize images to (default: the config's size)")
    add_out_argument(parser, "attention.png")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.utils.errors import UserError
    from van_mm.utils.image_files import find_input_files

    files = find_input_files(args.inputs)
    ((cfg, model),) = load_models(args, [(args.config, args.checkpoint)])

    from van_mm.apis.inferencer import preprocess_images
    from van_mm.models import VAN
    from van_mm.visualization.attention import compute_attention_maps
    from van_mm.visualization.figures import overlay_heatmap, save_image_grid

    if not isinstance(getattr(model, "backbone", None), VAN):
        raise UserError(f"the backbone of {args.config} is no VAN, so it has no LKA to show")
    blocks = choose_blocks(args.blocks, model.backbone.depths)

    rows = []
    for file in files:  # one at a time, because the sizes of the images may differ
        (image,), inputs = preprocess_images(cfg, model, [file], args.size)
        maps = compute_attention_maps(model.backbone, inputs)
        rows.append([image, *(overlay_heatmap(image, maps[block][0]) for block in blocks)])
    columns = ["image", *(f"stage {stage}, block {block}" for stage, block in blocks)]
    save_image_grid(rows, args.out, columns=columns, labels=[file.name[:24] for file in files])
    print(f"wrote {args.out}")


def choose_blocks(names: list[str] | None, depths: list[int]) -> list[tuple[int, int]]:
    """Return the (stage, block) pairs of names such as '3.5' or 'all', or the last block of each stage."""
    from van_mm.utils.errors import UserError

    if names is None:
        return list(enumerate(depths, 1))
    blocks = {f"{stage}.{block}": (stage, block) for stage, n in enumerate(depths, 1) for block in range(1, n + 1)}
    if names == ["all"]:
        return list(blocks.values())
    unknown = [name for name in names if name not in blocks]
    if unknown:
        raise UserError(
            f"--blocks: no {', '.join(unknown)}. This VAN has 1.1 to {len(depths)}.{depths[-1]}; its stages have "
            f"{', '.join(map(str, depths))} blocks."
        )
    return [blocks[name] for name in names]


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
