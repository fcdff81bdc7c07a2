#!/usr/bin/env python
"""Evaluate a checkpoint of any experiment of the suite. The config decides which codebase runs.

python tools/test.py configs/seg/upernet_van_b2.py work_dirs/upernet_van_b2/iter_160000.pth
"""

import argparse
from pathlib import Path

from _arguments import CONFIG_HELP, add_common_arguments, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--work-dir", help="folder of the log and the metrics (default: work_dirs/<config>)")
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="FILE.json: write the metrics; FILE.pkl: write the predictions; a folder, for segmentation only: "
        "write the predicted label maps or saliency maps as PNG",
    )
    parser.add_argument("--show-dir", metavar="DIR", help="save a figure of image, ground truth and prediction")
    parser.add_argument("--show-num", type=int, metavar="N", help="save N evenly spaced figures (default: all)")
    parser.add_argument(
        "--fold", action="store_true", help="fold BatchNorm and LayerScale into the convolutions, which is faster"
    )
    parser.add_argument("--tta", action="store_true", help="use the test-time augmentation of the config")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from van_mm.apis.command_line import keep_tracebacks
    from van_mm.apis.run_config import prepare_data
    from van_mm.utils.codebases import import_codebase
    from van_mm.utils.errors import UserError

    if args.show_num is not None and (args.show_num < 1 or not args.show_dir):
        raise UserError(f"--show-num {args.show_num}: it is the number of figures, at least 1, in --show-dir")
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)

    # The config, as the flags change it.
    cfg = load_config(args)
    keep_tracebacks(cfg.work_dir)

    # PyTorch and MMLab are imported after the config is loaded, so that a mistake in it is reported at once.
    import_codebase(cfg.default_scope)
    from mmengine.fileio import dump

    from van_mm.apis.assembly import build_datasets, build_runner, wrap_first_step_errors
    from van_mm.checkpoints.io import read_ahead
    from van_mm.checkpoints.loading import match_complete_state_dict
    from van_mm.visualization.class_names import get_trained_meta, use_trained_names

    checkpoint = read_ahead(args.checkpoint)
    if not cfg.test_dataloader:
        raise UserError(f"{args.config} only trains: its data set has nothing to test on")
    cfg.load_from = args.checkpoint
    if args.out and not args.out.endswith(".json"):
        save_predictions(cfg, args.out)
    if args.tta:
        if "tta_model" not in cfg or "tta_pipeline" not in cfg:
            raise UserError(f"--tta: {args.config} has no tta_model and tta_pipeline")
        use_test_time_augmentation(cfg)
    if args.fold:
        cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="van_mm.FoldHook")]
    if args.show_dir:
        panel_hook = dict(type="van_mm.PanelHook", out_dir=args.show_dir, num=args.show_num)
        cfg.custom_hooks = [*cfg.get("custom_hooks", []), panel_hook]

    # Everything that can be wrong is checked before the first batch.
    prepare_data(cfg, ("test",), args.demo)
    runner = build_runner(cfg)
    match_complete_state_dict(runner.model, checkpoint, args.checkpoint)
    build_datasets(runner, ("test",))
    use_trained_names(getattr(runner.test_dataloader.dataset, "metainfo", {}), get_trained_meta(checkpoint))

    with wrap_first_step_errors(runner):
        metrics = runner.test()
    if runner.rank == 0:
        if args.out and args.out.endswith(".json"):
            dump({key: to_plain(value) for key, value in metrics.items()}, args.out)
        print_published(args.checkpoint, metrics)


def to_plain(value):
    """Return a figure of a metric, or the figures in a list, an array or a dict, as JSON can hold them."""
    if isinstance(value, dict):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(one) for one in value]
    if hasattr(value, "tolist"):  # arrays and tensors
        return to_plain(value.tolist())
    return float(value) if isinstance(value, (int, float)) else value if value is None else str(value)


def print_published(checkpoint: str, metrics: dict) -> None:
    """Print the metric that the source of published weights reports, beside the measured one."""
    from van_mm.checkpoints.io import MODEL_ZOO, MODEL_ZOO_PREFIX

    name = checkpoint.removeprefix(MODEL_ZOO_PREFIX) if checkpoint.startswith(MODEL_ZOO_PREFIX) else None
    published = MODEL_ZOO.get(name, {}).get("published")
    if published and published["metric"] in metrics:
        measured = float(metrics[published["metric"]])
        print(
            f"{published['metric']}: measured {measured:.2f}, published {published['value']} ({published['protocol']})"
        )


def save_predictions(cfg, out: str) -> None:
    """Write the predictions to a pickle file, or those of a segmentor to a folder of PNG files."""
    from van_mm.utils.config_walk import get_type_name
    from van_mm.utils.errors import UserError

    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    if out.endswith((".pkl", ".pickle")):
        metric = "van_mm.DumpPredictions" if cfg.default_scope in ("mmdet", "mmseg") else "DumpResults"
        cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=out)]
        return
    if cfg.default_scope != "mmseg":
        raise UserError(
            f"--out {out}: only segmentation writes a folder of maps. Give FILE.json for metrics or FILE.pkl for "
            "predictions."
        )
    evaluators[0].output_dir = out
    if get_type_name(evaluators[0]) == "CityscapesMetric":
        evaluators[0].keep_results = True


def use_test_time_augmentation(cfg) -> None:
    """Wrap the model into the config's ``tta_model`` and replace the test pipeline by its ``tta_pipeline``."""
    from mmengine.config import ConfigDict

    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        main(args)
