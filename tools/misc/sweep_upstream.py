#!/usr/bin/env python
"""Try VAN under every config that ships with the four codebases, and say for which it works.

python tools/misc/sweep_upstream.py --json work_dirs/sweep.json --markdown docs/any_config.md
python tools/misc/sweep_upstream.py --codebases mmseg --every 10 --json part.json

Each config that has one image backbone and builds here as it is gets VAN-B0, is built again and run on one image; what
goes wrong is the message that ``tools/train.py CONFIG --backbone b0`` ends with. A sweep that was broken off goes on.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

CODEBASES = ("mmdet", "mmseg", "mmpose", "mmpretrain")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codebases", nargs="+", choices=CODEBASES, default=CODEBASES, help="default: all")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th config only (default: 1, all)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("work_dirs/sweep.json"), help="default: %(default)s")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="also write the report for readers")
    return parser.parse_args()


def attempt(name: str) -> dict:
    """One config: whether it works, or at which point it does not and why.

    Returns:
        dict: ``outcome`` is 'works', 'refused', 'no single backbone', or 'does not build', which is as it ships.
    """
    from mmengine.config import Config

    from van_mm import get_config, swap_backbone
    from van_mm.errors import UserError
    from van_mm.launch import build_random
    from van_mm.swap import check_swapped, only_backbone

    try:
        cfg = get_config(name)
        only_backbone(cfg)
    except UserError as error:
        return dict(outcome="no single backbone", why=str(error))
    except Exception as error:
        return dict(outcome="no single backbone", why=f"{type(error).__name__}: {error}")
    try:
        build_random(Config(copy.deepcopy(cfg._cfg_dict)))
    except UserError as error:
        return dict(outcome="does not build", why=str(error))
    try:
        changes = swap_backbone(cfg, "b0")
        check_swapped(cfg)
    except UserError as error:
        return dict(outcome="refused", why=str(error))
    return dict(outcome="works", changes=changes)


def main(args: argparse.Namespace) -> None:
    import logging
    import warnings

    import torch
    from rich.console import Console
    from rich.progress import track

    from van_mm.configs import find_upstream_root

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(args.threads)
    names = []
    for codebase in args.codebases:
        root = find_upstream_root(codebase)
        files = sorted(file.relative_to(root) for file in root.rglob("*.py") if "_base_" not in file.parts)
        names += [f"{codebase}::{file.as_posix()}" for file in files if file.parts[0][0] != "_"][:: args.every]
    done = json.loads(args.json.read_text()) if args.json.is_file() else {}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    for name in track(names, "configs", console=Console(stderr=True)):
        if name not in done:
            done[name] = attempt(name)
            args.json.write_text(json.dumps(done, indent=1))
    found = {name: done[name] for name in names}
    print(summary(found))
    if args.markdown:
        args.markdown.write_text(report(found))


def count(found: dict, codebase: str, outcome: str) -> int:
    return sum(name.startswith(f"{codebase}::") and one["outcome"] == outcome for name, one in found.items())


def summary(found: dict) -> str:
    """The table of counts."""
    rows = ["| codebase | configs | one backbone, builds here | VAN works | share |", "| --- | --- | --- | --- | --- |"]
    for codebase in CODEBASES:
        configs = sum(name.startswith(f"{codebase}::") for name in found)
        works, refused = count(found, codebase, "works"), count(found, codebase, "refused")
        if configs:
            share = f"{works / (works + refused):.1%}" if works + refused else "-"
            rows.append(f"| {codebase} | {configs} | {works + refused} | {works} | {share} |")
    return "\n".join(rows)


def report(found: dict) -> str:
    """``docs/any_config.md``: what works by folder, and each failure with its cause."""
    lines = ["# VAN under any MMLab config", "", "Made by `tools/misc/sweep_upstream.py`.", "", summary(found), ""]
    lines += ["## Works", ""]
    folders: dict[str, list[int]] = {}
    for name, one in found.items():
        if one["outcome"] in ("works", "refused"):
            both = folders.setdefault(name.rpartition("/")[0], [0, 0])
            both[one["outcome"] == "refused"] += 1
    lines += [f"- `{folder}`: {works} of {works + refused}" for folder, (works, refused) in sorted(folders.items())]
    for outcome in ("refused", "does not build", "no single backbone"):
        lines += ["", f"## {outcome.capitalize()}", ""]
        causes: dict[str, list[str]] = {}
        for name, one in found.items():
            if one["outcome"] == outcome:
                causes.setdefault(" ".join(one["why"].split())[:300], []).append(name)
        for why, names in sorted(causes.items(), key=lambda item: -len(item[1])):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"- {len(names)}: {why} (`{'`, `'.join(names[:3])}`{more})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        sys.exit(main(args))
