#!/usr/bin/env python
"""Look at every sample of a config's data sets before training does, and list what is wrong.

python tools/misc/check_dataset.py seg/upernet_van_b2
python tools/misc/check_dataset.py my_config.py --splits train --workers 16 --out problems.json

Each image is decoded to its last byte, which training does not (a cut JPEG is grey at the end, without an error), and
each annotation loaded: sizes, labels, boxes, maps, key points. Exit code 1 if something is wrong.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import add_config_arguments  # noqa: E402  a neighbour of this folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, a name below configs/, or an upstream name (mmdet::...)")
    splits = ("train", "val", "test")
    parser.add_argument("--splits", nargs="+", choices=splits, default=splits, help="default: all")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: as many as there are cores)")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="problems to print (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="all of them")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    import json
    import os
    from functools import partial

    from mmengine.registry import DATASETS, init_default_scope
    from rich.console import Console
    from rich.progress import track
    from torch.utils.data import DataLoader

    from van_mm.datasets.faults import parts, problems
    from van_mm.demo import dicts
    from van_mm.launch import building_dataset, check_dataset, load_config, prepare_data

    cfg = load_config(args)
    init_default_scope(cfg.default_scope)
    prepare_data(cfg, args, args.splits)
    found, seen = [], []
    for split in args.splits:
        loader = cfg.get(f"{split}_dataloader")
        if not loader or loader.dataset in seen:  # many configs test on what they validate on
            continue
        seen.append(loader.dataset.copy())
        for node in dicts(loader.dataset):
            if "pipeline" in node:
                node.pipeline = [step for step in node.pipeline if "Load" in step.type]
                node.filter_cfg = None  # what training leaves out anyway may be left out by mistake
        with building_dataset(split, loader.dataset):
            dataset = DATASETS.build(loader.dataset)
        check_dataset(cfg, dataset, split)
        for part in parts(dataset):
            if not hasattr(part, "pipeline"):  # one that is made of others
                continue
            workers = os.cpu_count() if args.workers is None else args.workers
            options = dict(batch_size=32, num_workers=workers, collate_fn=partial(look, problems, part))
            samples = DataLoader(range(len(part)), **options)
            title = f"{split}: {len(part)} samples"
            for batch in track(samples, title, console=Console(stderr=True)):
                found += [dict(split=split, file=file, problem=line) for file, lines in batch for line in lines]
            print(f"{title} of {type(part).__name__} looked at", flush=True)
    for line in found[: args.show]:
        print(f"{line['split']}: {line['file']}: {line['problem']}")
    more = f", {len(found) - args.show} more not shown" if len(found) > args.show else ""
    print(f"{len(found)} problems{more}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1))
    return int(bool(found))


def look(problems, dataset, indices: list[int]) -> list[tuple[str, list[str]]]:
    """The problems of a batch of samples, in a worker."""
    return [problems(dataset, index) for index in indices]


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        sys.exit(main(args))
