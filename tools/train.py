#!/usr/bin/env python
"""Train any experiment of the suite; the codebase that runs follows from the config.

python tools/train.py configs/seg/upernet_van_b2.py
python tools/train.py configs/seg/upernet_van_b2.py --demo     # no data set, no GPU needed
"""

import argparse

from _arguments import add_common_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, a name below configs/, or an upstream name (mmdet::...)")
    parser.add_argument("--work-dir", help="where logs and checkpoints go (default: work_dirs/<config>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint; without PATH from the work dir's latest that is whole",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision: float16 on a GPU, bfloat16 on the CPU")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate by actual batch size / base_batch_size"
    )
    parser.add_argument("--no-validate", action="store_true", help="do not evaluate while training")
    parser.add_argument(
        "--max-bad-data",
        type=float,
        default=0.001,
        metavar="FRACTION",
        help="of the training samples that may be unreadable; they are left out and logged (default: %(default)s)",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from mmengine.device import is_cuda_available

    from van_mm.launch import (
        UserError,
        build_data,
        build_runner,
        check_pretrained,
        check_whole,
        first_step,
        load_config,
        prepare_data,
    )
    from van_mm.safety import latest_checkpoint
    from van_mm.weights import read_checkpoint

    if not 0 <= args.max_bad_data <= 1:
        raise UserError(f"--max-bad-data is a fraction, from 0 to 1; got {args.max_bad_data}")
    cfg = load_config(args)
    if args.amp:
        if is_cuda_available():
            cfg.optim_wrapper.type = "AmpOptimWrapper"
            cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
        else:
            cfg.optim_wrapper.type = "van_mm.BFloat16OptimWrapper"
            # mmcv's RoIAlign and mmpose's accuracy take no bfloat16
            cfg.optim_wrapper.backbone_only = "roi_head" in cfg.model or cfg.default_scope == "mmpose"
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise UserError(f"--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    resume_from = None
    if args.resume == "auto":
        found, broken = latest_checkpoint(cfg.work_dir)
        for path in broken:
            print(f"{path} is broken or cut short, and left alone", flush=True)
        if found:
            cfg.resume, cfg.load_from = True, str(found)
            resume_from = str(found)
        else:
            print(f"{cfg.work_dir} has no checkpoint to resume from; starting from the beginning", flush=True)
    elif args.resume:
        cfg.resume, cfg.load_from = True, args.resume
        resume_from = args.resume

    prepare_data(cfg, args, ("train",) if args.no_validate else ("train", "val"))
    check_pretrained(cfg)
    checkpoint = read_checkpoint(resume_from) if resume_from else {}
    seed = checkpoint.get("meta", {}).get("seed")
    if seed is not None and cfg.get("randomness", {}).get("seed") is None:
        cfg.randomness = dict(cfg.get("randomness", {}), seed=seed)  # the order of the data is drawn from it
    runner = build_runner(cfg)
    if resume_from:
        check_whole(runner.model, checkpoint, resume_from)
    build_data(runner, ("train", "val"), args.max_bad_data)
    with first_step(runner):
        runner.train()


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
