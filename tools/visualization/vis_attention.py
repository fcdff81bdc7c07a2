#!/usr/bin/env python
"""LKA's attention maps over pictures (figure 9): absolute values, averaged over channels.

python tools/visualization/vis_attention.py cls/van_b2_in1k CHECKPOINT cat.jpg --out attention.png
python tools/visualization/vis_attention.py seg/upernet_van_b2 CHECKPOINT street.jpg --blocks 3.1 3.6 3.12 4.3

A row for each picture; a column for the last block of each stage, for the named ones, or with --blocks all for each.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments  # noqa: E402  a neighbour of this folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="any experiment whose backbone is a VAN")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, quoted patterns")
    parser.add_argument(
        "--blocks", nargs="+", metavar="STAGE.BLOCK", help="counted from 1, or 'all' (default: the last of each stage)"
    )
    parser.add_argument("--size", type=int, help="resize pictures to so many pixels a side")
    parser.add_argument("--out", type=Path, default=Path("attention.png"), metavar="FILE.png", help="%(default)s")
    add_config_arguments(parser)
    return parser.parse_args()


def chosen(names: list[str] | None, depths: list[int]) -> list[tuple[int, int]]:
    """The (stage, block) pairs that are asked for."""
    from van_mm.errors import UserError

    there = [(stage, block) for stage, depth in enumerate(depths, 1) for block in range(1, depth + 1)]
    if names is None:
        return list(enumerate(depths, 1))
    if names == ["all"]:
        return there
    places = {f"{stage}.{block}": (stage, block) for stage, block in there}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise UserError(f"--blocks: no {', '.join(unknown)}; this VAN has 1.1 to {len(depths)}.{depths[-1]}, "
                        f"{', '.join(map(str, depths))} blocks a stage")  # fmt: skip
    return [places[name] for name in names]


def main(args: argparse.Namespace) -> None:
    from van_mm.errors import UserError
    from van_mm.models import VAN
    from van_mm.visualization.attention import attention_maps
    from van_mm.visualization.figures import grid, heat_over
    from van_mm.visualization.inputs import find_inputs
    from van_mm.visualization.models import load_models, prepare

    files = find_inputs(args.inputs)
    ((cfg, model),) = load_models(args, [(args.config, args.checkpoint)])
    if not isinstance(getattr(model, "backbone", None), VAN):
        raise UserError(f"{args.config}: its backbone is no VAN, so it has no LKA to show")
    blocks = chosen(args.blocks, model.backbone.depths)
    rows = []
    for file in files:  # one by one: their sizes may differ
        (seen,), images = prepare(cfg, model, [file], args.size)
        maps = attention_maps(model.backbone, images)
        rows.append([seen, *(heat_over(seen, maps[block][0]) for block in blocks)])
    columns = ["picture", *(f"stage {stage}, block {block}" for stage, block in blocks)]
    grid(rows, args.out, columns=columns, labels=[file.name[:24] for file in files])
    print(f"wrote {args.out}")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
