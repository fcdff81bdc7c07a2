#!/usr/bin/env python
"""Check the saliency data sets as they were downloaded, and optionally binarize their masks.

python tools/dataset_converters/saliency.py data/saliency
python tools/dataset_converters/saliency.py data/saliency --subset PASCAL-S --binarize data/saliency_bw

The tool checks that
  all folders exist and have the expected number of pairs
  each image has a mask, and each mask an image
  both files are readable and of the same size
  the mask is 8-bit, black and white, and not empty (PASCAL-S has gray masks, which are thresholded at one half)

Each problem is printed on a line. The exit code is 1 if there is any.

--binarize writes a complete copy with masks of 0 and 255. Images are copied unchanged, as hard links where the file
system supports them. Pairs that thresholding does not correct are left out of the copy and reported.
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
    parser.add_argument("root", type=Path, help="folder with DUTS-TR, DUTS-TE, DUT-OMRON and PASCAL-S")
    parser.add_argument("--subset", nargs="+", metavar="NAME", help="data sets to check (default: all four)")
    parser.add_argument("--any-count", action="store_true", help="accept incomplete data sets")
    parser.add_argument("--binarize", type=Path, metavar="DIR", help="write a copy with masks of 0 and 255")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the problems as JSON")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS
    from van_mm.utils.errors import UserError

    unknown = set(args.subset or ()) - set(SALIENCY_LAYOUTS)
    if unknown:
        raise UserError(f"unknown subset {sorted(unknown)}. Choose from {', '.join(SALIENCY_LAYOUTS)}.")
    subsets = args.subset or list(SALIENCY_LAYOUTS)
    check_folders(args.root, subsets)
    if args.binarize and args.binarize.exists():
        raise UserError(f"--binarize {args.binarize} exists. Give a folder that does not exist yet.")

    summary = {}
    for subset in subsets:
        pairs, problems = find_set_problems(args.root, subset, args.any_count)
        problems += iter_pair_problems(args.root, subset, pairs, args.binarize)
        summary[subset] = dict(pairs=len(pairs), problems=problems)
        print(f"{subset}: {len(pairs)} pairs, {len(problems)} problems")
        for problem in problems:
            print(f"  {problem}")
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    return int(any(entry["problems"] for entry in summary.values()))


def check_folders(root: Path, subsets: list[str]) -> None:
    """Raise if a folder of the data sets is missing. The message lists all the folders."""
    from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS
    from van_mm.utils.errors import UserError

    layouts = [SALIENCY_LAYOUTS[subset] for subset in subsets]
    folders = [root / folder for layout in layouts for folder in (layout.images, layout.masks)]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        listing = "\n".join(f"  {folder}{'   (missing)' if folder in missing else ''}" for folder in folders)
        raise UserError(f"the data sets are not complete. Expected are these folders of the downloads:\n{listing}")


def find_set_problems(root: Path, subset: str, any_count: bool) -> tuple[list[str], list[str]]:
    """Return the names of a data set's pairs, and the problems of its lists of files."""
    from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS, pair_files

    layout = SALIENCY_LAYOUTS[subset]
    pairs, images, masks = pair_files(root / layout.images, root / layout.masks)
    problems = [f"image {root / layout.images / name} (.jpg) has no mask" for name in images]
    problems += [f"mask {root / layout.masks / name}.png has no image" for name in masks]
    if len(pairs) != layout.count and not any_count:
        problems.append(
            f"{len(pairs)} pairs, not the {layout.count} that {subset} has; --any-count accepts incomplete data sets"
        )
    return pairs, problems


def iter_pair_problems(root: Path, subset: str, pairs: list[str], out: Path | None) -> Iterator[str]:
    """Check the pairs of a data set in several threads, and yield their problems in order. ``out`` gets a copy."""
    from rich.console import Console
    from rich.progress import track

    from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS

    layout = SALIENCY_LAYOUTS[subset]
    suffixes = {file.stem: file.suffix for file in (root / layout.images).iterdir()}
    if out:
        for folder in (out / layout.images, out / layout.masks):
            folder.mkdir(parents=True)

    def check(name: str) -> str | None:
        image, mask = Path(layout.images, name + suffixes[name]), Path(layout.masks, f"{name}.png")
        return check_pair(root / image, root / mask, layout.grey, (out / image, out / mask) if out else None)

    with ThreadPoolExecutor() as pool:
        problems = pool.map(check, pairs)
        yield from filter(None, track(problems, subset, total=len(pairs), console=Console(stderr=True)))


def check_pair(image_file: Path, mask_file: Path, gray: bool, copy_to: tuple[Path, Path] | None) -> str | None:
    """Return the problem of a pair, or None. A good pair is copied to the paths ``copy_to`` with a binary mask."""
    import cv2

    from van_mm.datasets.saliency_layouts import find_mask_problem, read_mask
    from van_mm.utils.errors import UserError

    image = cv2.imread(str(image_file))
    if image is None:
        return f"image {image_file} is not a readable image ({image_file.stat().st_size} bytes)"
    try:
        mask = read_mask(mask_file)
    except UserError as error:
        return str(error)
    problem = find_mask_problem(mask, mask_file, image.shape[:2], gray or copy_to is not None)
    if copy_to and not problem:
        cv2.imwrite(str(copy_to[1]), 255 * (mask > 128).astype(mask.dtype))
        try:
            os.link(image_file, copy_to[0])
        except OSError:
            shutil.copyfile(image_file, copy_to[0])
    return problem


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        sys.exit(main(args))
