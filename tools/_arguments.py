"""The flags that train.py and test.py share. It imports nothing heavy, so that ``--help`` answers at once."""

from argparse import ArgumentParser

from mmengine.config import DictAction


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the flags of training and testing, with MMLab's meaning, and ``--demo``."""
    add_config_arguments(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by the launcher")


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add the flags that change a config."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="override settings of the config: model.backbone.drop_path_rate=0.2",
    )
    parser.add_argument(
        "--backbone", metavar="ARCH", help="VAN of this size, b0 to b6, in place of the config's backbone"
    )
    parser.add_argument("--optim", choices=["van"], help="the paper's optimiser for the task in place of the config's")
    parser.add_argument("--dump", metavar="FILE.py", help="write the config that these flags make, and stop")
    parser.set_defaults(launcher="none", local_rank=0, work_dir=None)
    demo = parser.add_argument_group("demo", "run any config on a small generated data set")
    demo.add_argument(
        "--demo", action="store_true", help="generated data, small images, short schedule, random weights"
    )
    demo.add_argument("--demo-iters", type=int, metavar="N", help="optimiser steps instead of the demo's own")
    demo.add_argument(
        "--demo-root",
        default="data/demo",
        metavar="DIR",
        help="where the generated data sets are kept (default: %(default)s)",
    )
