#!/usr/bin/env python
"""Try VAN under every config that ships with the four codebases, and say for which it works.

python tools/misc/sweep_upstream.py --markdown docs/any_config.md          # 40 to 50 minutes on two cores
python tools/misc/sweep_upstream.py --match 'mmseg::*' 'mmdet::*rcnn*' --every 10 --json part.json

Each config that has one image backbone and builds here as it is gets VAN, as ``tools/train.py CONFIG --backbone b2``
puts it, and is run on noise; what goes wrong is the message which that command ends with. A tenth of them, drawn by
the name, also takes a training step on random images and labels with the config's own optimiser; where the step fails,
it counts only if the config as it ships takes it. A sweep that was broken off goes on.
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

OUTCOMES = {  # in the order of the report
    "refused": "VAN does not work; each with what `--backbone` says",
    "does not build": "Do not build here as they ship",
    "no backbone": "Have no backbone that runs on an image, or several, or are no whole experiment",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--match", nargs="+", metavar="PATTERN", help="only configs like 'mmdet::fcos/*' (default: all)"
    )
    parser.add_argument("--backbone", default="b2", metavar="ARCH", help="VAN of this size (default: %(default)s)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th config only (default: 1, all)")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: work_dirs/sweep_<ARCH>.json")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="also write the report for readers")
    return parser.parse_args()


def attempt(name: str, arch: str) -> dict:
    """One config: whether it works, or at which point it does not and why.

    Returns:
        dict: ``outcome`` is 'works' or one of ``OUTCOMES``; ``step`` tells of the training step, where one was tried.
    """
    from mmengine.config import Config

    from van_mm import get_config, swap_backbone
    from van_mm.analysis.complexity import build_on_meta
    from van_mm.errors import UserError
    from van_mm.launch import build_random
    from van_mm.swap import holder

    try:
        cfg = get_config(name)
        holder(cfg.model)
        if not cfg.get("default_scope"):
            raise UserError("it has no default_scope")
    except UserError as error:
        return dict(outcome="no backbone", why=str(error))
    except Exception as error:
        return dict(outcome="no backbone", why=f"{type(error).__name__}: {error}")
    original = Config(copy.deepcopy(cfg._cfg_dict))
    try:
        build_on_meta(cfg)  # which takes no time
    except Exception:
        try:
            build_random(Config(copy.deepcopy(cfg._cfg_dict)))
        except UserError as error:
            return dict(outcome="does not build", why=str(error))
    try:
        changes = swap_backbone(cfg, arch)
    except UserError as error:
        return dict(outcome="no backbone" if "does not run on an image" in str(error) else "refused", why=str(error))
    if changes[-1].startswith("not tried"):
        return dict(outcome="refused", why=changes[-1])
    if zlib.crc32(name.encode()) % 10 or not cfg.get("optim_wrapper"):
        return dict(outcome="works", changes=changes)
    failed = training_step(cfg)
    if not failed:
        return dict(outcome="works", changes=changes, step="works")
    as_shipped = training_step(original)
    if as_shipped:
        return dict(outcome="works", changes=changes, step=f"fails as it ships: {as_shipped}")
    return dict(outcome="refused", why=f"a training step fails: {failed}")


def training_step(cfg) -> str:
    """Train a config's model for a step on random data; what went wrong, or nothing."""
    from mmengine.logging import MessageHub
    from mmengine.optim import build_optim_wrapper

    from van_mm.trial import trial_model

    keys = {"optimizer", "constructor", "paramwise_cfg", "clip_grad"} & set(cfg.optim_wrapper)
    wrapper = dict(type="OptimWrapper", **{key: cfg.optim_wrapper[key] for key in keys})
    for key in ("iter", "epoch", "max_iters", "max_epochs"):
        MessageHub.get_current_instance().update_info(key, 1)  # which some models read
    try:
        model = trial_model(cfg).train()
        losses = model.train_step(random_data(cfg, model), build_optim_wrapper(model, wrapper))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if losses["loss"].isfinite() else f"the loss is {losses['loss']}"


def random_data(cfg, model) -> dict:
    """Two images with labels, as the config's data loader would give them."""
    import numpy as np
    import torch
    from mmengine.structures import PixelData

    from van_mm.demo import dicts
    from van_mm.trial import image_size

    height, width = image_size(cfg)
    classes = min((node["num_classes"] for node in dicts(cfg.model) if node.get("num_classes")), default=2)
    classes = min(max(classes, 2), 255)
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in range(2)]
    if cfg.default_scope == "mmdet":
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(
            2, (3, height, width), [4, 3], classes, with_mask=True, with_semantic=True, use_box_type=True
        )
    if cfg.default_scope == "mmseg":
        from mmseg.structures import SegDataSample

        labels = [torch.randint(0, classes, (1, height, width)) for _ in images]
        samples = [
            SegDataSample(
                metainfo=dict(img_shape=(height, width), ori_shape=(height, width)),
                gt_sem_seg=PixelData(data=label),
                gt_edge_map=PixelData(data=label % 2),
            )
            for label in labels
        ]
        return dict(inputs=images, data_samples=samples)
    if cfg.default_scope == "mmpose":
        from mmpose.registry import TRANSFORMS

        keys = ("out_channels", "num_keypoints", "num_joints")
        number = next(node[key] for node in dicts(cfg.model.head) for key in keys if node.get(key))
        last = ("GenerateTarget", "PackPoseInputs")  # of the pipeline
        transforms = [TRANSFORMS.build(node) for node in dicts(cfg.train_dataloader) if node.get("type") in last]
        box = np.array([[0, 0, width, height]], np.float32)
        found = []
        for image in images:
            points = np.random.rand(1, number, 2).astype(np.float32) * (width, height)
            sample = dict(
                img=image.permute(1, 2, 0).numpy(), img_shape=(height, width), ori_shape=(height, width),
                input_size=(width, height), input_center=box[0, 2:] / 2, input_scale=box[0, 2:],
                keypoints=points, transformed_keypoints=points, keypoints_visible=np.ones((1, number), np.float32),
                bbox=box, bbox_score=np.ones(1, np.float32),
                dataset_keypoint_weights=np.ones(number, np.float32), flip_indices=list(range(number)), id=0, img_id=0,
            )  # fmt: skip
            for transform in transforms:
                sample = transform(sample)
            found.append(sample)
        return dict(inputs=[one["inputs"] for one in found], data_samples=[one["data_samples"] for one in found])
    from mmpretrain.structures import DataSample

    if not hasattr(model, "predict"):  # self-supervised learning compares two views
        images = [images, images]
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(label) for label in (0, 1)])


def work(task: tuple[str, str]) -> tuple[str, dict]:
    name, arch = task
    return name, attempt(name, arch)


def quiet() -> None:
    """Prepare a process of the pool: one thread, and no lines about what models do."""
    import logging
    import warnings

    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)


def main(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from van_mm.configs import CODEBASES, find_upstream_root
    from van_mm.launch import UserError

    names = []
    for codebase in CODEBASES:
        if root := find_upstream_root(codebase):
            files = sorted(file.relative_to(root) for file in root.rglob("*.py") if "_base_" not in file.parts)
            names += [f"{codebase}::{file.as_posix()}" for file in files if file.parts[0][0] != "_"]
    names = [name for name in names if any(fnmatch(name, pattern) for pattern in args.match or ["*"])][:: args.every]
    if not names:
        raise UserError(f"--match {' '.join(args.match or ())}: no config of an installed codebase has such a name")
    file = args.json or Path(f"work_dirs/sweep_{args.backbone}.json")
    done = json.loads(file.read_text()) if file.is_file() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    left = [(name, args.backbone) for name in names if name not in done]
    pool = multiprocessing.get_context("fork").Pool(args.jobs, quiet, maxtasksperchild=100)
    with pool, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("configs", total=len(names), completed=len(names) - len(left))
        for name, found in pool.imap_unordered(work, left):
            done[name] = found
            file.write_text(json.dumps(done, indent=1))
            progress.advance(bar)
    found = {name: done[name] for name in names}
    print(summary(found))
    if args.markdown:
        args.markdown.write_text(report(found, args))


def count(found: dict, codebase: str, outcome: str) -> int:
    return sum(name.startswith(codebase) and one["outcome"] == outcome for name, one in found.items())


def summary(found: dict) -> str:
    """The table of counts."""
    from van_mm.configs import CODEBASES

    lines = [
        "| codebase | configs | have one image backbone and build here | VAN works | share | training step |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for codebase in (*CODEBASES, ""):
        of_it = [one for name, one in found.items() if name.startswith(codebase)]
        works, refused = count(found, codebase, "works"), count(found, codebase, "refused")
        steps = [one["step"] for one in of_it if "step" in one]
        if works + refused:
            share, stepped = f"{works / (works + refused):.1%}", f"{steps.count('works')} of {len(steps)}"
            cells = [codebase or "all", len(of_it), works + refused, works, share, stepped]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def report(found: dict, args: argparse.Namespace) -> str:
    """``docs/any_config.md``: what works by folder, and each failure with its cause."""
    import torch

    lines = [
        "# VAN under any MMLab config", "",
        f"Measured on {date.today()} ({platform.machine()}, no GPU, torch {torch.__version__}) by", "", "```sh",
        f"python {' '.join(sys.argv)}", "```", "",
        f"which puts VAN-{args.backbone.upper()} in the place of each config's backbone, as `--backbone`",
        "does, and runs the model on noise. A tenth of those that work, drawn by name, also took a training step on",
        "random data with the config's own optimiser; what is missing from that tenth does not take one as it ships",
        "either, on such data.", "", summary(found), "", "## VAN works, by folder", "",
    ]  # fmt: skip
    folders: dict[str, list[int]] = {}
    for name, one in found.items():
        if one["outcome"] in ("works", "refused"):
            both = folders.setdefault(name.rpartition("/")[0], [0, 0])
            both[one["outcome"] == "refused"] += 1
    lines += [f"- `{folder}`: {works} of {works + refused}" for folder, (works, refused) in sorted(folders.items())]
    for outcome, title in OUTCOMES.items():
        causes: dict[str, list[str]] = {}
        for name, one in found.items():
            if one["outcome"] == outcome:
                why = one["why"].removeprefix("--backbone: ").removeprefix("the config does not build: ")
                why = re.sub(r"/\S*/site-packages/|/\S*/\.cache/", ".../", why)
                causes.setdefault(" ".join(why.split())[:300], []).append(name.removesuffix(".py"))
        lines += ["", f"## {title}", ""]
        for why, names in sorted(causes.items(), key=lambda item: -len(item[1])):
            shown = names if outcome == "refused" else names[:3]
            more = f" and {len(names) - 3} more" if len(shown) < len(names) else ""
            lines.append(f"- {len(names)}: {why} (`{'`, `'.join(shown)}`{more})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
