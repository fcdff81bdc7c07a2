"""The flags that several tools share, and what they stand for.

Nothing heavy is imported before it is needed, so that ``--help`` answers at once.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

CONFIG_HELP = "a config file, a name below configs/, or an upstream name (mmdet::...)"


class SettingsAction(DictAction):
    """Parse KEY=VALUE settings. Settings that do not parse end the program with one message."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: list[str], *args) -> None:
        """Parse the settings one by one, so that the message can name the wrong one."""
        for value in values:
            try:
                super().__call__(parser, Namespace(), [value], *args)
                is_broken = "=[" in value and value.count("[") != value.count("]")
            except (ValueError, AssertionError, IndexError, RecursionError):
                is_broken = True
            if is_broken:
                problem = "has brackets or quotes that do not match" if "=" in value else "is no KEY=VALUE"
                parser.exit(2, f"error: {self.option_strings[0]} {value} {problem}. Write lists as KEY=[a,b]\n")
        super().__call__(parser, namespace, values, *args)


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the flags of training and testing, with their meaning in MMLab, and ``--demo``."""
    add_config_arguments(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by the launcher")


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add the flags that change a config."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=SettingsAction,
        default={},
        metavar="KEY=VALUE",
        help="override settings of the config: model.backbone.drop_path_rate=0.2",
    )
    parser.add_argument("--backbone", metavar="ARCH", help="replace the config's backbone by this VAN, b0 to b6")
    parser.add_argument("--optim", choices=["van"], help="use the paper's optimizer for the task")
    parser.add_argument("--dump", metavar="FILE.py", help="write the config that these flags make, and stop")
    parser.set_defaults(launcher="none", local_rank=0, work_dir=None)
    data = parser.add_argument_group("your own data", "any config on a folder of images and labels")
    data.add_argument(
        "--data",
        metavar="FOLDER",
        help="class folders, CSV of file and label, COCO JSON, Pascal VOC XML, YOLO txt, or images with label PNGs",
    )
    data.add_argument("--ignore-index", type=int, metavar="VALUE", help="of label PNGs: no class, in addition to 255")
    data.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="longer side of the images; side of the crops in segmentation"
    )
    demo = parser.add_argument_group("demo", "run any config on a small generated data set")
    demo.add_argument(
        "--demo", action="store_true", help="generated data, small images, short schedule, random weights"
    )
    demo.add_argument("--demo-iters", type=int, metavar="N", help="optimizer steps instead of the demo's own")
    demo.add_argument(
        "--demo-root", default="data/demo", metavar="DIR", help="folder of the generated data (default: %(default)s)"
    )


def add_run_arguments(parser: ArgumentParser) -> None:
    """Add the flags of a training that stand for settings of mmengine."""
    from van_mm.apis.run_options import TRACKERS

    run = parser.add_argument_group("the run")
    run.add_argument("--epochs", type=int, metavar="N", help="length of the run; the schedule is rescaled")
    run.add_argument("--iters", type=int, metavar="N", help="length of the run in iterations")
    run.add_argument("--batch", metavar="N|auto", help="images in a batch of each process; auto: what memory allows")
    run.add_argument("--lr", metavar="LR|auto", help="learning rate; auto: scale the config's with the batch size")
    run.add_argument("--track", choices=list(TRACKERS), help="also log to this tracker")
    run.add_argument("--save-best", action="store_true", help="keep the checkpoint with the best validation")
    run.add_argument(
        "--early-stop",
        type=int,
        nargs="?",
        const=5,
        metavar="N",
        help="end after N validations without a better one (default of N: %(const)s)",
    )
    run.add_argument("--seed", type=int, metavar="N", help="seed of the run")


def add_out_argument(parser: ArgumentParser, default: str) -> None:
    """Add the flag of the PNG file that a tool writes."""
    parser.add_argument(
        "--out", type=Path, default=Path(default), metavar="FILE.png", help="file to write (default: %(default)s)"
    )


def load_config(args: Namespace, config: str | None = None, cfg_options: dict | None = None):
    """Load the config that the flags ask for. With ``--dump`` write it and end the program.

    Args:
        args (Namespace): Parsed flags.
        config (str, optional): A config instead of ``args.config``.
        cfg_options (dict, optional): Settings instead of ``args.cfg_options``.

    Returns:
        Config: See :func:`van_mm.apis.run_config.get_run_config`.
    """
    from dataclasses import fields

    from van_mm.apis.run_config import dump_config, get_run_config
    from van_mm.apis.run_options import RunOptions

    name = config or args.config
    cfg_options = args.cfg_options if cfg_options is None else cfg_options
    asked = {field.name: getattr(args, field.name) for field in fields(RunOptions) if hasattr(args, field.name)}
    if "epochs" not in asked:  # only a training starts from pretrained weights
        asked["pretrained"] = True
    changes = dict(
        cfg_options=cfg_options,
        backbone=args.backbone,
        paper_optimizer=args.optim == "van",
        options=RunOptions(**asked),
    )
    if args.dump:
        dump_config(name, args.dump, **changes, launcher=args.launcher)
        sys.exit()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    demo = dict(demo=args.demo, demo_root=args.demo_root, demo_iters=args.demo_iters)
    return get_run_config(name, **changes, **demo, work_dir=args.work_dir, launcher=args.launcher)


def load_models(args: Namespace, pairs: Sequence[tuple[str, str]]) -> list:
    """Load several models with their configs.

    Args:
        args (Namespace): Parsed flags, which apply to every config.
        pairs (Sequence[tuple[str, str]]): Of config and checkpoint.

    Returns:
        list[tuple[Config, nn.Module]]: Configs, and models with the checkpoints' weights in eval mode.
    """
    configs = [load_config(args, config) for config, _ in pairs]

    from van_mm.apis.build import build_model

    return [(cfg, build_model(cfg, checkpoint)) for cfg, (_, checkpoint) in zip(configs, pairs, strict=True)]
