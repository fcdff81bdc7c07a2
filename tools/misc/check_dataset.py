#!/usr/bin/env python
"""Check every sample of a config's data sets before training, and list the problems.

python tools/misc/check_dataset.py seg/upernet_van_b2
python tools/misc/check_dataset.py my_config.py --splits train --workers 16 --out problems.json

Every image is decoded to its last byte. Training does not do this: it reads a truncated JPEG as an image whose end is
gray. Every annotation is loaded, and its sizes, labels, boxes, maps and keypoints are checked. The exit code is 1 if
there is an error, and 0 if there are only warnings, with which training starts.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from _arguments import CONFIG_HELP, add_config_arguments, load_config  # noqa: E402  found through the line above

SEVERITIES = {True: "error", False: "warning"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=CONFIG_HELP)
    splits = ("train", "val", "test")
    parser.add_argument("--splits", nargs="+", choices=splits, default=splits, help="splits to check (default: all)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: the number of cores)")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="problems to print (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write all problems as JSON")
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    import json
    import os

    cfg = load_config(args)

    from mmengine.registry import DATASETS, init_default_scope

    from van_mm.apis.run_config import prepare_data
    from van_mm.datasets.bad_samples import iter_innermost_datasets
    from van_mm.datasets.checks.run import find_run_problems, wrap_dataset_errors
    from van_mm.datasets.checks.segmentation import get_ignored_labels

    init_default_scope(cfg.default_scope)
    prepare_data(cfg, args.splits, args.demo)
    workers = os.cpu_count() if args.workers is None else args.workers

    problems, built, datasets = [], [], {}
    for split in args.splits:
        loader = cfg.get(f"{split}_dataloader")
        if not loader:
            continue
        datasets[split] = next((datasets[other] for other, known in built if known == loader.dataset), None)
        if datasets[split] is None:  # many configs use the same data set for validation and test
            with wrap_dataset_errors(split, loader.dataset):
                datasets[split] = DATASETS.build(loader.dataset)
            built.append((split, loader.dataset))
    for problem in find_run_problems(cfg, datasets):
        problems.append(dict(severity=SEVERITIES[problem.is_error], split="", file="", problem=problem.message))
    for split, dataset_cfg in built:
        for part in iter_innermost_datasets(build_loading_dataset(dataset_cfg, split)):
            problems += find_problems(part, split, workers, get_ignored_labels(cfg))

    problems.sort(key=lambda problem: problem["severity"])  # errors first
    for problem in problems[: args.show]:
        print(": ".join(filter(None, problem.values())))
    hidden = f", {len(problems) - args.show} more not shown" if len(problems) > args.show else ""
    errors = sum(problem["severity"] == "error" for problem in problems)
    print(f"{len(problems)} problems: {errors} errors and {len(problems) - errors} warnings{hidden}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(problems, indent=1))
    return int(errors > 0)


def build_loading_dataset(dataset_cfg, split: str):
    """Build a data set whose pipeline only loads, and that keeps the samples which training filters out."""
    import copy

    from mmengine.registry import DATASETS

    from van_mm.datasets.checks.run import wrap_dataset_errors
    from van_mm.utils.config_walk import get_type_name, iter_dicts

    dataset_cfg = copy.deepcopy(dataset_cfg)  # the checks of the config need the whole pipeline
    for node in iter_dicts(dataset_cfg):
        if "pipeline" in node:
            node.pipeline = [step for step in node.pipeline if "Load" in get_type_name(step)]
            if not {"dataset", "datasets"} & set(node):  # wrappers such as MultiImageMixDataset have no filter
                node.filter_cfg = None  # a filter could hide samples with broken annotations
    with wrap_dataset_errors(split, dataset_cfg):
        return DATASETS.build(dataset_cfg)


def find_problems(dataset, split: str, workers: int, ignored: set[int]) -> list[dict]:
    """Check all samples of a data set in several processes, and return their problems.

    Args:
        dataset (BaseDataset): A data set whose pipeline only loads.
        split (str): Its split.
        workers (int): Number of processes.
        ignored (set[int]): Labels of segmentation maps that the heads ignore.
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import track
    from torch.utils.data import DataLoader

    from van_mm.datasets.checks.samples import find_sample_problems

    collate = partial(find_batch_problems, partial(find_sample_problems, ignored=ignored), dataset)
    batches = DataLoader(range(len(dataset)), batch_size=32, num_workers=workers, collate_fn=collate)
    title = f"{split}: {len(dataset)} samples"
    problems = []
    for batch in track(batches, title, console=Console(stderr=True)):
        problems += [
            dict(severity="error", split=split, file=file, problem=line) for file, lines in batch for line in lines
        ]
    print(f"{title} of {type(dataset).__name__} checked", flush=True)
    return problems


def find_batch_problems(find_sample_problems, dataset, indices: list[int]) -> list[tuple[str, list[str]]]:
    """Return the file and the problems of each sample of a batch. The data loader's workers call it."""
    return [find_sample_problems(dataset, index) for index in indices]


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        sys.exit(main(args))
