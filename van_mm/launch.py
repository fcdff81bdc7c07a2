"""What ``tools/train.py`` and ``tools/test.py`` share: finding a config, checking it and its files before any
long work starts, and turning what goes wrong into one message."""

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from van_mm.demo import demo_config, dicts, make_demo_data

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CODEBASES = ("mmpretrain", "mmdet", "mmseg", "mmpose")


class UserError(Exception):
    """Something the user can mend; the message names the cause and the remedy."""


@contextmanager
def user_errors() -> Iterator[None]:
    """End the program with one line on ``UserError``; ``VAN_MM_TRACEBACK=1`` shows where it came from."""
    try:
        yield
    except UserError as error:
        if os.environ.get("VAN_MM_TRACEBACK"):
            traceback.print_exc()
        sys.exit(f"error: {error}")


def find_config(name: str) -> str:
    """The path of a config named by a path, by a path below ``configs/`` (``seg/upernet_van_b2``), or by an
    upstream name (``mmdet::...``, passed on as it is).

    Raises:
        UserError: If there is none; the message lists the nearest names.
    """
    if "::" in name:
        return name
    for path in (Path(name), CONFIGS.parent / name, CONFIGS / name, CONFIGS / f"{name}.py"):
        if path.is_file():
            return str(path.resolve())
    from difflib import get_close_matches

    ours = {str(p.relative_to(CONFIGS).with_suffix("")): p for p in CONFIGS.glob("*/*.py")}
    near = get_close_matches(Path(name).stem, [Path(key).name for key in ours], cutoff=0.4)
    known = [key for key in ours if Path(key).name in near] or sorted(ours)
    raise UserError(f"no config '{name}'. Did you mean {', '.join(known)}?")


def load_config(args: Namespace) -> Config:
    """The config that the command line asks for: file, ``--demo``, ``--cfg-options``, launcher, work folder.

    Raises:
        UserError: If it is not found, does not parse, or is no config of the four codebases.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ["LOCAL_RANK"] = str(args.local_rank)
    path = find_config(args.config)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise UserError(f"{path} does not load: {type(error).__name__}: {error}") from error
    scope = cfg.get("default_scope")
    if scope not in CODEBASES:
        raise UserError(f"{path}: default_scope is {scope!r}; train and test run {', '.join(CODEBASES)}")
    for name in ("model", "train_dataloader", "test_dataloader"):
        if name not in cfg:
            raise UserError(f"{path} has no '{name}', so it is no whole experiment")
    if scope == "mmpretrain":  # as mmpretrain's own tools do
        for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
            if cfg.get(name):
                cfg[name].setdefault("collate_fn", ConfigDict(type="default_collate"))
                cfg[name].setdefault("pin_memory", torch.cuda.is_available())
    work_dir = Path("work_dirs", *(["demo"] if args.demo else []), Path(path).stem)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"./{work_dir}"
    cfg.launcher = args.launcher
    if args.demo:
        try:
            changes = demo_config(cfg, args.demo_root, args.demo_iters)
        except ValueError as error:
            raise UserError(error) from error
        print("--demo changes the config:\n  " + "\n  ".join(changes), flush=True)
    elif args.demo_iters is not None:
        raise UserError("--demo-iters goes with --demo")
    try:
        cfg.merge_from_dict(args.cfg_options)
    except Exception as error:
        raise UserError(f"--cfg-options {args.cfg_options}: {error}") from error
    return cfg


def datasets(cfg: Config, splits: tuple[str, ...]) -> list[ConfigDict]:
    """The data sets of these splits' dataloaders, wrappers such as ``RepeatDataset`` taken off."""
    loaders = [cfg.get(f"{split}_dataloader") for split in splits]
    return [node for loader in loaders if loader for node in dicts(loader.dataset) if "data_root" in node]


def prepare_data(cfg: Config, args: Namespace, splits: tuple[str, ...]) -> None:
    """Generate the demo data where asked, and see that every folder and file that the data sets name is there.

    Args:
        cfg (Config): Of the experiment.
        args (Namespace): Parsed command line.
        splits (tuple[str]): Of ``'train'``, ``'val'``, ``'test'``: whose data is needed.

    Raises:
        UserError: If something is missing; the message draws the expected layout.
    """
    if args.demo:
        for dataset in datasets(cfg, ("train", "val", "test")):
            try:
                make_demo_data(dataset.type, dataset.data_root)
            except (ValueError, OSError) as error:
                raise UserError(error) from error
    expected: dict[Path, None] = {}
    for dataset in datasets(cfg, splits):
        root = Path(dataset.data_root)
        prefixes = dataset.get("data_prefix") or dataset.get("split") or ""
        if dataset.type.endswith("CUB"):
            prefixes = "images"
        for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
            expected[root / prefix] = None
        for file in (dataset.get("ann_file"), dataset.get("bbox_file")):
            if file:
                expected[Path(file) if str(file).startswith(str(root)) else root / file] = None
    missing = [path for path in expected if not path.exists()]
    if missing:
        layout = "\n".join(f"  {path}{'   (missing)' if path in missing else ''}" for path in expected)
        raise UserError(
            f"the data set is not complete: {missing[0]} does not exist. This config expects, below "
            f"{Path.cwd()}:\n{layout}\nPut or link it there, set another data_root with --cfg-options, or try "
            "--demo, which needs no download."
        )


def build_runner(cfg: Config):
    """``Runner.from_cfg``, where what is wrong with the config ends in one message.

    Raises:
        UserError: On any error of a constructor.
    """
    from mmengine.runner import Runner

    try:
        return Runner.from_cfg(cfg)
    except Exception as error:
        raise UserError(f"the config does not build: {type(error).__name__}: {error}") from error


def read_checkpoint(path: str) -> dict:
    """The content of a checkpoint file, or of a URL, which is kept in torch hub's cache.

    Raises:
        UserError: If it is missing, out of reach, truncated, no checkpoint, or would run code on loading.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    local = "://" not in path
    if local and not os.path.isfile(path):
        raise UserError(f"no checkpoint {path}; train one with tools/train.py, which writes to work_dirs/")
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    except (URLError, ConnectionError, TimeoutError) as error:
        cached = Path(torch.hub.get_dir(), "checkpoints", path.rpartition("/")[2])
        raise UserError(
            f"{path} can't be downloaded ({error}). Download it elsewhere and put it at {cached}, or train without "
            "it: --cfg-options model.backbone.init_cfg=None, or --demo"
        ) from error
    except Exception as error:
        size = f" ({os.path.getsize(path)} bytes)" if local else ""
        cause = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}{size} can't be read as a checkpoint; it may be cut short or no checkpoint at all: "
            f"{type(error).__name__}: {cause}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def check_pretrained(cfg: Config) -> None:
    """Fetch and read every checkpoint that the model is to start from.

    Raises:
        UserError: If one of them can't be had or read.
    """
    for node in dicts(cfg.model):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained":
            read_checkpoint(init_cfg["checkpoint"])


def check_weights(model: nn.Module, path: str) -> None:
    """See that a checkpoint is of this very model.

    Raises:
        UserError: If keys are missing, left over or of another shape; the message counts and names them.
    """
    checkpoint = read_checkpoint(path)
    weights = checkpoint.get("state_dict", checkpoint)
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    own = model.state_dict()
    problems = {
        "missing from the checkpoint": [key for key in own if key not in weights],
        "not in the model": [key for key in weights if key not in own],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {what} (as {', '.join(keys[:3])})" for what, keys in problems.items() if keys]
    if found:
        raise UserError(f"{path} is not of this config's model: of {len(own)} keys, {'; '.join(found)}")
