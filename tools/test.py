#!/usr/bin/env python
"""Evaluate a checkpoint of any experiment of the suite; the codebase that runs follows from the config.

python tools/test.py configs/seg/upernet_van_b2.py work_dirs/upernet_van_b2/iter_160000.pth
"""

import argparse
from pathlib import Path

from _arguments import add_common_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, a name below configs/, or an upstream name (mmdet::...)")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--work-dir", help="where the log and metrics go (default: work_dirs/<config>)")
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="FILE.json: the metrics; FILE.pkl: the predictions; with segmentation a folder: "
        "the predicted label or saliency maps as PNG",
    )
    parser.add_argument("--show-dir", metavar="DIR", help="save pictures: image, ground truth, prediction")
    parser.add_argument("--fold", action="store_true", help="fold BatchNorm and LayerScale into convolutions; faster")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation, where the config has it")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from mmengine.config import ConfigDict
    from mmengine.fileio import dump

    from van_mm.launch import (
        UserError,
        build_data,
        build_runner,
        check_whole,
        first_step,
        load_config,
        prepare_data,
    )
    from van_mm.weights import read_checkpoint

    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    checkpoint = read_checkpoint(args.checkpoint)
    cfg = load_config(args)
    if not cfg.test_dataloader:
        raise UserError(f"{args.config} only trains: its data set has nothing to test on")
    cfg.load_from = args.checkpoint
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    if args.out and args.out.endswith((".pkl", ".pickle")):
        metric = "mmdet.DumpDetResults" if cfg.default_scope == "mmdet" else "DumpResults"
        cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=args.out)]
    elif args.out and not args.out.endswith(".json"):
        if cfg.default_scope != "mmseg":
            raise UserError(f"--out {args.out}: give FILE.json for metrics or FILE.pkl for predictions")
        evaluators[0].output_dir = args.out
        if evaluators[0].type == "CityscapesMetric":
            evaluators[0].keep_results = True
    if args.tta:
        if "tta_model" not in cfg or "tta_pipeline" not in cfg:
            raise UserError(f"--tta: {args.config} has no tta_model and tta_pipeline")
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    if args.fold:
        cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="van_mm.FoldHook")]
    if args.show_dir:
        cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="van_mm.PanelHook", out_dir=args.show_dir)]

    prepare_data(cfg, args, ("test",))
    runner = build_runner(cfg)
    check_whole(runner.model, checkpoint, args.checkpoint)
    build_data(runner, ("test",))
    with first_step(runner):
        metrics = runner.test()
    if args.out and args.out.endswith(".json") and runner.rank == 0:
        dump({key: float(value) for key, value in metrics.items()}, args.out)


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        main(args)
