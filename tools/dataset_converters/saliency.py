#!/usr/bin/env python
"""Check the saliency data sets as they were downloaded, and write masks that are black and white.

python tools/dataset_converters/saliency.py data/saliency
python tools/dataset_converters/saliency.py data/saliency --subset PASCAL-S --binarize data/saliency_bw

Checked are the folders, the number of pairs, that each image has a mask and each mask an image, that both can be read,
are of one size, and that the mask is 8-bit, black and white (PASCAL-S: shades, which are cut at one half) and not
empty. What is wrong is printed, a line each. Exit code 1 if anything is.

--binarize writes a whole copy: images as they are (as links where that works), masks of 0 and 255. Pairs that cutting
at one half does not put right are left out of it and reported.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the folder that holds DUTS-TR, DUTS-TE, DUT-OMRON and PASCAL-S")
    parser.add_argument("--subset", nargs="+", metavar="NAME", help="which of the four (default: all)")
    parser.add_argument("--any-count", action="store_true", help="a part of a data set is all right")
    parser.add_argument("--binarize", type=Path, metavar="DIR", help="write a copy with masks of 0 and 255")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings as JSON")
    return parser.parse_args()


def problems_of_set(root: Path, subset: str, any_count: bool) -> tuple[list[str], list[str]]:
    """Names of a subset's pairs, and what is wrong with its lists of files."""
    from van_mm.datasets.layouts import LAYOUTS, pair_up

    layout = LAYOUTS[subset]
    pairs, images, masks = pair_up(root / layout.images, root / layout.masks)
    problems = [f"image {root / layout.images / name} (.jpg) has no mask" for name in images]
    problems += [f"mask {root / layout.masks / name}.png has no image" for name in masks]
    if len(pairs) != layout.count and not any_count:
        problems.append(f"{len(pairs)} pairs, not the {layout.count} that {subset} has; --any-count if that is meant")
    return pairs, problems


def handle_pair(image: Path, mask: Path, grey: bool, copy_to: tuple[Path, Path] | None) -> str | None:
    """What is wrong with a pair, or None. With ``copy_to`` an image and a black and white mask are written there."""
    import cv2

    from van_mm.datasets.layouts import check_mask, read_mask
    from van_mm.errors import UserError

    picture = cv2.imread(str(image))
    if picture is None:
        return f"image {image} is no readable picture ({image.stat().st_size} bytes)"
    try:
        shades = read_mask(mask)
    except UserError as error:
        return str(error)
    problem = check_mask(shades, mask, picture.shape[:2], grey or copy_to is not None)
    if copy_to and not problem:
        cv2.imwrite(str(copy_to[1]), 255 * (shades > 128).astype(shades.dtype))
        try:
            os.link(image, copy_to[0])
        except OSError:
            shutil.copyfile(image, copy_to[0])
    return problem


def walk(root: Path, subset: str, pairs: list[str], out: Path | None) -> Iterator[str]:
    """What is wrong with the pairs of a subset, in their order, found by several threads."""
    from rich.console import Console
    from rich.progress import track

    from van_mm.datasets.layouts import LAYOUTS

    layout = LAYOUTS[subset]
    suffixes = {file.stem: file.suffix for file in (root / layout.images).iterdir()}
    if out:
        for folder in (out / layout.images, out / layout.masks):
            folder.mkdir(parents=True)

    def handle(name: str) -> str | None:
        files = Path(layout.images, name + suffixes[name]), Path(layout.masks, f"{name}.png")
        return handle_pair(*(root / f for f in files), layout.grey, tuple(out / f for f in files) if out else None)

    with ThreadPoolExecutor() as pool:
        found = pool.map(handle, pairs)
        yield from filter(None, track(found, subset, total=len(pairs), console=Console(stderr=True)))


def main(args: argparse.Namespace) -> int:
    from van_mm.datasets.layouts import LAYOUTS
    from van_mm.errors import UserError

    unknown = set(args.subset or ()) - set(LAYOUTS)
    if unknown:
        raise UserError(f"unknown subset {sorted(unknown)}; there are {', '.join(LAYOUTS)}")
    subsets = args.subset or list(LAYOUTS)
    folders = [args.root / folder for s in subsets for folder in (LAYOUTS[s].images, LAYOUTS[s].masks)]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        layout = "\n".join(f"  {folder}{'   (missing)' if folder in missing else ''}" for folder in folders)
        raise UserError(f"the data sets are not complete. Expected, as their authors distribute them:\n{layout}")
    if args.binarize and args.binarize.exists():
        raise UserError(f"--binarize {args.binarize} exists; give a folder that does not")

    report = {}
    for subset in subsets:
        pairs, problems = problems_of_set(args.root, subset, args.any_count)
        problems += walk(args.root, subset, pairs, args.binarize)
        report[subset] = dict(pairs=len(pairs), problems=problems)
        print(f"{subset}: {len(pairs)} pairs, {len(problems)} problems")
        for problem in problems:
            print(f"  {problem}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(found["problems"] for found in report.values()))


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        sys.exit(main(args))
