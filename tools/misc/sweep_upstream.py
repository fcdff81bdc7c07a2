#!/usr/bin/env python
"""Try VAN as the backbone of every config of the four codebases, and report where it works.

python tools/misc/sweep_upstream.py --markdown docs/any_config.md          # 40 to 50 minutes on two cores
python tools/misc/sweep_upstream.py --match 'mmseg::*' 'mmdet::*rcnn*' --every 10 --json part.json

The sweep covers each config that has one image backbone and builds on this machine. VAN replaces its backbone as
``tools/train.py CONFIG --backbone b2`` does, and the model runs on noise. If this fails, the report quotes the message
of that command.

Of every ten configs, one, selected by a hash of its name, also takes a training step on random images and labels with
its own optimizer; --train-every changes the number. If the step fails, it counts as VAN's failure only if the original
config can take it.

An interrupted sweep continues where it stopped.
"""

import argparse
import copy
import json
import multiprocessing
import platform
import re
import sys
import zlib
from datetime import date
from fnmatch import fnmatch
from pathlib import Path

FAILURE_TITLES = {  # outcome: section of the report
    "refused": "VAN does not work",
    "does not build": "Not covered: the original config does not build on this machine",
    "no backbone": "Not covered: no image backbone, several backbones, or an incomplete config",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--match", nargs="+", metavar="PATTERN", help="only configs that match, such as 'mmdet::fcos/*' (default: all)"
    )
    parser.add_argument("--backbone", default="b2", metavar="ARCH", help="size of the VAN (default: %(default)s)")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every N-th config (default: %(default)s)"
    )
    parser.add_argument(
        "--train-every",
        type=int,
        default=10,  # our choice, so that the sweep takes less than an hour
        metavar="N",
        help="one config in N takes a training step (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each (default: %(default)s)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="file of the results (default: work_dirs/sweep_<ARCH>.json)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="also write a report as Markdown")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from van_mm.utils.errors import UserError

    names = list_upstream_configs(args.match or ["*"])[:: args.every]
    if not names:
        raise UserError(f"--match {' '.join(args.match or ())}: no config of an installed codebase has such a name")
    file = args.json or Path(f"work_dirs/sweep_{args.backbone}.json")
    results = json.loads(file.read_text()) if file.is_file() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    tasks = [(name, args.backbone, args.train_every) for name in names if name not in results]

    pool = multiprocessing.get_context("fork").Pool(args.jobs, init_worker, maxtasksperchild=100)
    with pool, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("configs", total=len(names), completed=len(names) - len(tasks))
        for name, result in pool.imap_unordered(run_task, tasks):
            results[name] = result
            file.write_text(json.dumps(results, indent=1))
            progress.advance(bar)

    selected = {name: results[name] for name in names}
    print(format_summary(selected))
    if args.markdown:
        args.markdown.write_text(format_report(selected, args.backbone, args.train_every))


def list_upstream_configs(patterns: list[str]) -> list[str]:
    """Return the names of the installed codebases' configs that match a pattern, without ``_base_`` configs."""
    from van_mm.apis.configs import list_config_files
    from van_mm.utils.codebases import CODEBASES, find_upstream_config_dir

    names = []
    for codebase in CODEBASES:
        if root := find_upstream_config_dir(codebase):
            files = [file for file in list_config_files(root) if file.parts[0][0] != "_"]
            names += [f"{codebase}::{file.as_posix()}" for file in files]
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def init_worker() -> None:
    """Prepare a process of the pool: use one thread, and silence warnings and logs."""
    import logging
    import warnings

    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)


def run_task(task: tuple[str, str, int]) -> tuple[str, dict]:
    """Call ``try_config`` in a process of the pool."""
    return task[0], try_config(*task)


def try_config(name: str, arch: str, train_every: int) -> dict:
    """Replace the backbone of a config by VAN, and run the model. One config in ``train_every`` takes a training step.

    Returns:
        dict: ``outcome`` is 'works' or a key of ``FAILURE_TITLES``. ``why`` is the message of a failure, ``changes``
        lists the changes to a config that works, and ``step`` is the result of the training step if there was one.
    """
    from mmengine.config import Config

    from van_mm import get_config, swap_backbone
    from van_mm.analysis.complexity import build_on_meta
    from van_mm.apis.backbone_swap_rules import find_backbone_parent
    from van_mm.apis.build import build_random_model
    from van_mm.utils.errors import UserError

    try:
        cfg = get_config(name)
        find_backbone_parent(cfg.model)
        if not cfg.get("default_scope"):
            raise UserError("it has no default_scope")
    except UserError as error:
        return dict(outcome="no backbone", why=str(error))
    except Exception as error:
        return dict(outcome="no backbone", why=f"{type(error).__name__}: {error}")
    original = Config(copy.deepcopy(cfg._cfg_dict))
    try:
        build_on_meta(cfg)  # fast, but some models cannot be built on the meta device
    except Exception:
        try:
            build_random_model(Config(copy.deepcopy(cfg._cfg_dict)))
        except UserError as error:
            return dict(outcome="does not build", why=str(error))
    try:
        changes = swap_backbone(cfg, arch)
    except UserError as error:
        return dict(outcome="no backbone" if "does not run on an image" in str(error) else "refused", why=str(error))
    if changes[-1].startswith("not tried"):
        return dict(outcome="refused", why=changes[-1])
    if zlib.crc32(name.encode()) % train_every or not cfg.get("optim_wrapper"):
        return dict(outcome="works", changes=changes)
    error = run_training_step(cfg)
    if not error:
        return dict(outcome="works", changes=changes, step="works")
    original_error = run_training_step(original)
    if original_error:
        return dict(outcome="works", changes=changes, step=f"fails in the original config: {original_error}")
    return dict(outcome="refused", why=f"a training step fails: {error}")


def run_training_step(cfg) -> str:
    """Train a config's model for one step on random data. Return the error, or an empty string."""
    from mmengine.logging import MessageHub
    from mmengine.optim import build_optim_wrapper

    from van_mm.apis.build import build_trial_model

    keys = {"optimizer", "constructor", "paramwise_cfg", "clip_grad"} & set(cfg.optim_wrapper)
    wrapper = dict(type="OptimWrapper", **{key: cfg.optim_wrapper[key] for key in keys})
    for key in ("iter", "epoch", "max_iters", "max_epochs"):
        MessageHub.get_current_instance().update_info(key, 1)  # some models read these
    try:
        model = build_trial_model(cfg).train()
        losses = model.train_step(make_random_batch(cfg, model), build_optim_wrapper(model, wrapper))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if losses["loss"].isfinite() else f"the loss is {losses['loss']}"


def make_random_batch(cfg, model) -> dict:
    """Return two random images with labels, in the form of the config's data loader."""
    import torch

    from van_mm.apis.build import get_image_size
    from van_mm.utils.config_walk import iter_dicts

    height, width = get_image_size(cfg)
    num_classes = min((node["num_classes"] for node in iter_dicts(cfg.model) if node.get("num_classes")), default=2)
    num_classes = min(max(num_classes, 2), 255)
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in range(2)]
    if cfg.default_scope == "mmdet":
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(
            2, (3, height, width), [4, 3], num_classes, with_mask=True, with_semantic=True, use_box_type=True
        )
    if cfg.default_scope == "mmseg":
        return dict(inputs=images, data_samples=make_segmentation_samples(height, width, num_classes))
    if cfg.default_scope == "mmpose":
        samples = [make_pose_sample(cfg, image) for image in images]
        return {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
    from mmpretrain.structures import DataSample

    if not hasattr(model, "predict"):  # self-supervised learning compares two views
        images = [images, images]
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(label) for label in (0, 1)])


def make_segmentation_samples(height: int, width: int, num_classes: int) -> list:
    """Return mmsegmentation's samples of two random label maps."""
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = [torch.randint(0, num_classes, (1, height, width)) for _ in range(2)]
    return [
        SegDataSample(
            metainfo=dict(img_shape=(height, width), ori_shape=(height, width)),
            gt_sem_seg=PixelData(data=label),
            gt_edge_map=PixelData(data=label % 2),
        )
        for label in labels
    ]


def make_pose_sample(cfg, image) -> dict:
    """Return an image (3, H, W) with random keypoints, as the last steps of the config's pipeline pack it."""
    import numpy as np
    from mmpose.registry import TRANSFORMS

    from van_mm.utils.config_walk import iter_dicts

    height, width = image.shape[1:]
    keys = ("out_channels", "num_keypoints", "num_joints")
    number = next(node[key] for node in iter_dicts(cfg.model.head) for key in keys if node.get(key))
    points = np.random.rand(1, number, 2).astype(np.float32) * (width, height)
    box = np.array([[0, 0, width, height]], np.float32)
    sample = dict(
        img=image.permute(1, 2, 0).numpy(), img_shape=(height, width), ori_shape=(height, width),
        input_size=(width, height), input_center=box[0, 2:] / 2, input_scale=box[0, 2:],
        keypoints=points, transformed_keypoints=points, keypoints_visible=np.ones((1, number), np.float32),
        bbox=box, bbox_score=np.ones(1, np.float32),
        dataset_keypoint_weights=np.ones(number, np.float32), flip_indices=list(range(number)), id=0, img_id=0,
    )  # fmt: skip
    for node in iter_dicts(cfg.train_dataloader):
        if node.get("type") in ("GenerateTarget", "PackPoseInputs"):
            sample = TRANSFORMS.build(node)(sample)
    return sample


def format_summary(results: dict) -> str:
    """Return the table of counts as Markdown."""
    from van_mm.utils.codebases import CODEBASES

    lines = [
        "| codebase | configs | covered | VAN works | share | training step |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for codebase in (*CODEBASES, ""):
        rows = [result for name, result in results.items() if name.startswith(codebase)]
        outcomes = [row["outcome"] for row in rows]
        works, covered = outcomes.count("works"), outcomes.count("works") + outcomes.count("refused")
        steps = [row["step"] for row in rows if "step" in row]
        if covered:
            trained = f"{steps.count('works')} of {len(steps)}"
            cells = [codebase or "all", len(rows), covered, works, f"{works / covered:.1%}", trained]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def format_report(results: dict, arch: str, train_every: int) -> str:
    """Return ``docs/any_config.md``: the counts, what works by folder, and each failure with its cause."""
    import torch

    lines = [
        "# VAN under any MMLab config", "",
        f"Measured on {date.today()} ({platform.machine()}, no GPU, torch {torch.__version__}):", "", "```sh",
        f"python {' '.join(sys.argv)}", "```", "",
        f"The sweep replaces the backbone of each config by VAN-{arch.upper()}, as `--backbone` does, and runs the",
        "model on noise. It covers the configs that have one image backbone and whose original model builds on this",
        "machine.", "",
        f"One in {train_every} of the configs where VAN works, selected by name, also took a training step on random",
        "data with the config's own optimizer. Where such a step failed, it fails with the original backbone too.", "",
        format_summary(results), "", "## Results by folder", "",
        "The number of configs where VAN works, of those covered:", "",
    ]  # fmt: skip
    folders: dict[str, dict[str, int]] = {}
    for name, result in results.items():
        if result["outcome"] in ("works", "refused"):
            counts = folders.setdefault(name.rpartition("/")[0], {"works": 0, "refused": 0})
            counts[result["outcome"]] += 1
    for folder, counts in sorted(folders.items()):
        lines.append(f"- `{folder}`: {counts['works']} of {sum(counts.values())}")
    for outcome, title in FAILURE_TITLES.items():
        lines += ["", f"## {title}", "", "The number of configs, the message, and the configs:", ""]
        causes: dict[str, list[str]] = {}
        for name, result in results.items():
            if result["outcome"] == outcome:
                cause = result["why"].removeprefix("--backbone: ").removeprefix("the config does not build: ")
                cause = re.sub(r"/\S*/site-packages/|/\S*/\.cache/", ".../", cause)
                causes.setdefault(" ".join(cause.split())[:300], []).append(name.removesuffix(".py"))
        for cause, names in sorted(causes.items(), key=lambda item: -len(item[1])):
            shown = names if outcome == "refused" else names[:3]
            more = f" and {len(names) - 3} more" if len(shown) < len(names) else ""
            lines.append(f"- {len(names)}: {cause} (`{'`, `'.join(shown)}`{more})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
