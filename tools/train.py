#!/usr/bin/env python
"""Train any experiment of the suite. The config decides which codebase runs.

python tools/train.py configs/seg/upernet_van_b2.py
python tools/train.py configs/seg/upernet_van_b2.py --demo     # needs neither a data set nor a GPU
python tools/train.py seg/upernet_van_b0 --data data/fields    # a folder of your own images and labels
"""

import argparse

from _arguments import CONFIG_HELP, add_common_arguments, add_run_arguments, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("--work-dir", help="folder of logs and checkpoints (default: work_dirs/<config>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="resume from a checkpoint; without PATH from the latest complete one in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision: float16 on a GPU, bfloat16 on the CPU")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate by actual batch size / base_batch_size"
    )
    parser.add_argument("--no-validate", action="store_true", help="do not evaluate during training")
    parser.add_argument(
        "--max-bad-data",
        type=float,
        default=0.001,
        metavar="FRACTION",
        help="end the run if more of the training samples than this are unreadable; fewer are skipped and logged "
        "(default: %(default)s)",
    )
    add_run_arguments(parser)
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.apis.command_line import keep_tracebacks
    from van_mm.apis.run_config import prepare_data
    from van_mm.utils.codebases import import_codebase
    from van_mm.utils.errors import UserError

    if not 0 <= args.max_bad_data <= 1:
        raise UserError(f"--max-bad-data is a fraction, from 0 to 1; got {args.max_bad_data}")

    # The config, as the flags change it.
    cfg = load_config(args)
    keep_tracebacks(cfg.work_dir)
    if args.amp:
        use_mixed_precision(cfg)
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise UserError(f"--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None

    # PyTorch and MMLab are imported after the config is loaded, so that a mistake in it is reported at once.
    import_codebase(cfg.default_scope)
    from van_mm.apis.assembly import (
        build_datasets,
        build_runner,
        check_pretrained_weights,
        wrap_first_step_errors,
    )
    from van_mm.checkpoints.io import read_ahead
    from van_mm.checkpoints.loading import check_related_weights, match_complete_state_dict

    resume_from = choose_checkpoint(cfg, args)

    # Everything that can be wrong is checked before the training starts.
    prepare_data(cfg, ("train",) if args.no_validate else ("train", "val"), args.demo)
    check_pretrained_weights(cfg)
    if resume_from:
        checkpoint = read_ahead(resume_from)
        resume(cfg, resume_from, checkpoint)
    runner = build_runner(cfg)
    if resume_from:
        match_complete_state_dict(runner.model, checkpoint, resume_from)
        del checkpoint  # the runner frees it
    elif cfg.get("load_from"):
        check_related_weights(runner.model, cfg.load_from)
    build_datasets(runner, ("train", "val"), args.max_bad_data)

    with wrap_first_step_errors(runner):
        runner.train()


def use_mixed_precision(cfg) -> None:
    """Train in float16 with loss scaling on a GPU, and in bfloat16 on the CPU."""
    from mmengine.device import is_cuda_available

    from van_mm.utils.codebases import has_compiled_operators

    if is_cuda_available():
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    else:
        cfg.optim_wrapper.type = "van_mm.BFloat16OptimWrapper"
        # mmcv's compiled RoIAlign and mmpose's accuracy do not support bfloat16.
        compiled_roi_align = "roi_head" in cfg.model and has_compiled_operators()
        cfg.optim_wrapper.backbone_only = compiled_roi_align or cfg.default_scope == "mmpose"


def choose_checkpoint(cfg, args: argparse.Namespace) -> str | None:
    """Return the checkpoint to resume from, or None, and remove what an earlier run has left in its config.

    A resumed run writes ``resume=True`` and its checkpoint as ``load_from`` into the config in its work dir. A run of
    this config resumes only if the command line asks for it.
    """
    from mmengine.dist import is_main_process

    asked = args.resume or (args.cfg_options.get("resume") and (args.cfg_options.get("load_from") or "auto"))
    if cfg.get("resume"):
        if not asked and is_main_process():
            print(
                f"{args.config} has resume=True and load_from={cfg.get('load_from')!r}, as the config of a resumed run "
                "has. Both are ignored. Add --resume to continue that run",
                flush=True,
            )
        cfg.resume, cfg.load_from = False, args.cfg_options.get("load_from")
    return find_checkpoint(cfg.work_dir) if asked == "auto" else asked


def find_checkpoint(work_dir: str) -> str | None:
    """Return the latest complete checkpoint of a work dir, or None, and print what was found.

    Rank 0 decides for all ranks, because the others may see an older state of a network drive.
    """
    from mmengine.dist import broadcast_object_list, is_main_process

    from van_mm.engine.runner.checkpoint_files import find_latest_checkpoint

    latest = None
    if is_main_process():
        latest, broken = find_latest_checkpoint(work_dir)
        for path in broken:
            print(f"{path} is broken or cut short, and left alone", flush=True)
        if latest is None:
            print(f"{work_dir} has no checkpoint to resume from; starting from the beginning", flush=True)
    found = [latest and str(latest)]
    broadcast_object_list(found)
    return found[0]


def resume(cfg, path: str, checkpoint: dict) -> None:
    """Resume from a checkpoint. The order of the data is drawn from its seed, unless the config sets another one."""
    cfg.resume, cfg.load_from = True, path
    seed = checkpoint.get("meta", {}).get("seed")
    if seed is not None and cfg.get("randomness", {}).get("seed") is None:
        cfg.randomness = dict(cfg.get("randomness", {}), seed=seed)


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
