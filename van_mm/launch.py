"""What the tools share: finding a config, checking it and its files before any
long work starts, and turning what goes wrong into one message."""

import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import barrier, get_rank
from mmengine.fileio import load
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from van_mm import distributed
from van_mm.configs import NoConfigError, find_config, get_experiment, run_name
from van_mm.datasets.faults import LOG, skip_bad_data
from van_mm.datasets.layouts import LAYOUTS
from van_mm.demo import demo_config, dicts, make_demo_data
from van_mm.errors import UserError
from van_mm.models import VAN
from van_mm.options import check_options
from van_mm.safety import StopHook, Stopped
from van_mm.swap import paper_optimizer, swap_backbone
from van_mm.trial import drop_weights
from van_mm.weights import (
    SCHEME,
    WeightsError,
    bare,
    guess_arch,
    match_state_dict,
    mismatches,
    read_checkpoint,
    split_state_dict,
    unwrap,
)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the program with one line on ``UserError`` and on files that can't be read or written;
    ``VAN_MM_TRACEBACK=1`` shows where it came from."""
    try:
        yield
    except (UserError, NoConfigError, WeightsError, OSError) as error:
        if os.environ.get("VAN_MM_TRACEBACK"):
            traceback.print_exc()
        message = str(error).rpartition("UserError: ")[2].rstrip()  # a data loader's worker sends its traceback with it
        if isinstance(error, OSError) and not isinstance(error, NoConfigError):
            if error.filename is None:
                raise
            message = f"{error.filename} can't be read or written: {error.strerror}"
        sys.exit(f"error: {distributed.failed(message)}")
    except Stopped as stopped:
        distributed.finish()
        print(stopped, flush=True)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        first = distributed.failed(f"{type(error).__name__}: {error}")
        if distributed.watch is not None and not first.startswith(f"rank {distributed.watch.rank} "):
            sys.exit(f"error: {first}")  # this one only lost the other
        raise
    distributed.finish()


def load_config(args: Namespace) -> Config:
    """The config that the command line asks for: file, ``--demo``, ``--cfg-options``, launcher, work folder.

    Raises:
        NoConfigError: If it is not found.
        UserError: If it does not parse, or is no config of the four codebases.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ["LOCAL_RANK"] = str(args.local_rank)
    path = find_config(args.config)
    cfg = get_experiment(path, ("model", "train_dataloader", "test_dataloader"))
    if cfg.default_scope == "mmpretrain":  # as mmpretrain's own tools do
        for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
            if cfg.get(name):
                cfg[name].setdefault("collate_fn", ConfigDict(type="default_collate"))
                cfg[name].setdefault("pin_memory", torch.cuda.is_available())
    swapped = change_backbone(cfg, args)
    name = run_name(path, args.backbone if swapped else None)
    work_dir = Path("work_dirs", *(["demo"] if args.demo else []), name)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"./{work_dir}"
    cfg.launcher = args.launcher
    weights_hook = ConfigDict(type="van_mm.AnyVANWeightsHook", priority="VERY_HIGH")  # before EMAHook copies them
    ours = [ConfigDict(type=f"van_mm.{name}Hook") for name in ("Divergence", "ExactResume", "Stop")]
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), weights_hook, *ours]
    checkpoint_hook = cfg.get("default_hooks", {}).get("checkpoint", {})
    if "://" not in str(checkpoint_hook.get("out_dir", "")):
        checkpoint_hook.setdefault("backend_args", ConfigDict(backend="van_mm.AtomicBackend"))
    if args.demo:
        try:
            changes = demo_config(cfg, args.demo_root, args.demo_iters)
        except ValueError as error:
            raise UserError(error) from error
        print("--demo changes the config:\n  " + "\n  ".join(changes), flush=True)
    elif args.demo_iters is not None:
        raise UserError("--demo-iters goes with --demo")
    merge_options(cfg, args.cfg_options)
    distributed.start(cfg)
    return cfg


def merge_options(cfg: Config, options: dict) -> None:
    """Put ``--cfg-options`` into a config.

    Raises:
        UserError: If one names nothing or does not fit.
    """
    if options:
        init_default_scope(cfg.default_scope)
        check_options(cfg, options)
    try:
        cfg.merge_from_dict(options)
    except Exception as error:
        raise UserError(f"--cfg-options {options}: {error}") from error


@contextmanager
def device_errors(device: str) -> Iterator[None]:
    """Turn what torch says of a device that there is not into a ``UserError``."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error


def change_backbone(cfg: Config, args: Namespace) -> bool:
    """Do what ``--backbone``, ``--optim`` and ``--dump`` ask for; whether the backbone is another one now."""
    swapped = swap_backbone(cfg, args.backbone) if args.backbone else []
    changes = [*swapped, *(paper_optimizer(cfg) if args.optim else [])]
    if changes:
        print("\n  ".join(["--backbone and --optim change the config:", *changes]), flush=True)
    if args.dump:
        merge_options(cfg, args.cfg_options)
        Path(args.dump).parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.dump)
        print(f"wrote {args.dump}")
        sys.exit()
    return bool(swapped)


@contextmanager
def rank_0_first() -> Iterator[None]:
    """Let the first process of several do something before the others do."""
    if get_rank():
        barrier()
    yield
    if not get_rank():
        barrier()


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
                with rank_0_first():
                    make_demo_data(dataset.type, dataset.data_root)
            except (ValueError, OSError) as error:
                raise UserError(error) from error
    expected: dict[Path, None] = {}
    for dataset in datasets(cfg, splits):
        root = Path(dataset.data_root)
        prefixes = dataset.get("data_prefix") or dataset.get("split") or ""
        if dataset.type.endswith("CUB"):
            prefixes = "images"
        if dataset.type.endswith("SaliencyDataset"):
            known = LAYOUTS.get(dataset.subset)
            prefixes = dataset.get("data_prefix") or (known.prefixes if known else "")
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


@contextmanager
def building(what: str = "the config") -> Iterator[None]:
    """Turn any error of a constructor into a ``UserError``, which says what does not build."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} does not build: {type(error).__name__}: {error}") from error


@contextmanager
def first_step(runner) -> Iterator[None]:
    """Turn any error before a step of training or testing is through into a ``UserError``: parts that the runner
    builds late, or that do not fit together. An error after that is none of the config's."""
    counter = Counter()
    runner.register_hook(counter, priority="LOWEST")
    try:
        yield
    except (UserError, Stopped):
        raise
    except Exception as error:
        if counter.steps:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}: {frame.line}"
        raise UserError(f"the config does not build or run: {type(error).__name__}: {error} ({place})") from error
    finally:
        for hook in runner.hooks:
            if isinstance(hook, StopHook):
                hook.after_train(runner)  # whatever ended the run


class Counter(Hook):
    """Counts the steps of a process."""

    steps = 0

    def after_train_iter(self, *args, **kwargs) -> None:
        self.steps += 1

    def after_test_iter(self, *args, **kwargs) -> None:
        self.steps += 1


def build_runner(cfg: Config):
    """``Runner.from_cfg``, where what is wrong with the config ends in one message.

    Raises:
        UserError: On any error of a constructor.
    """
    from mmengine.runner import Runner

    with building():
        return Runner.from_cfg(cfg)


NO_SAMPLE = (
    "the {} data set has no sample: its folder or annotation file is empty, its filter_cfg drops every image, or no "
    "class of metainfo occurs in it"
)
HEADS = {"head", "bbox_head", "mask_head", "decode_head", "auxiliary_head", "roi_head", "panoptic_head"}


def build_data(runner, splits: tuple[str, ...], max_bad_data: float = 0.0) -> None:
    """Build data sets, which the runner would do later, and check them.

    Args:
        runner (Runner): Samples that can't be used are written to its log folder.
        splits (tuple[str]): Of ``'train'``, ``'val'``, ``'test'``.
        max_bad_data (float): The part of the samples that training leaves out before it ends. Others it ends at once:
            without them, the figure would be another one. Defaults to 0.

    Raises:
        UserError: On any error of a constructor, and as :func:`check_dataset` does.
    """
    order = dict(seed=runner.seed, diff_rank_seed=runner.cfg.get("randomness", {}).get("diff_rank_seed", False))
    for split in splits:
        name = f"_{split}_dataloader"
        if isinstance(getattr(runner, name), dict):
            with building_dataset(split, getattr(runner, name).dataset):
                loader = runner.build_dataloader(getattr(runner, name), **order)
            check_dataset(runner.cfg, loader.dataset, split)
            skip_bad_data(loader.dataset, Path(runner.log_dir, LOG), max_bad_data if split == "train" else None)
            setattr(runner, name, loader)


@contextmanager
def building_dataset(split: str, cfg: ConfigDict) -> Iterator[None]:
    """:func:`building`, naming the data set's folder and annotation file."""
    places = ", ".join(str(cfg[key]) for key in ("data_root", "ann_file") if cfg.get(key))
    try:
        with building(f"the {split} data set" + (f" ({places})" if places else "")):
            yield
    except UserError as error:
        if "need at least one array" in str(error):  # as mmengine says of a data set without samples
            raise UserError(NO_SAMPLE.format(split)) from error
        raise


def check_dataset(cfg: Config, dataset, split: str) -> None:
    """See that a data set has samples, all classes that it counts, and no more of them than the model's heads.

    Raises:
        UserError: If not.
    """
    if not len(dataset):
        raise UserError(NO_SAMPLE.format(split))
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    ids = getattr(dataset, "cat_ids", None)
    if ids is not None and len(ids) < len(classes):
        known = {category["name"] for category in load(dataset.ann_file)["categories"]}
        absent = [name for name in classes if name not in known]
        raise UserError(
            f"{dataset.ann_file} has no categories {', '.join(absent[:10])} ({len(absent)} of the {len(classes)} "
            f"classes): it has {', '.join(sorted(known)[:10])}. Give its own: --cfg-options or a config with "
            "dataset.metainfo=dict(classes=(...)), and num_classes of the heads"
        )

    def heads(node, path: str) -> Iterator[tuple[str, int]]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, (dict, list)) and (key in HEADS or not isinstance(key, str)):
                yield from heads(value, f"{path}.{key}")
            elif key == "num_classes" and isinstance(value, int):
                yield f"{path}.{key}", value

    for name, number in heads(cfg.model, "model"):
        if number < len(classes):
            raise UserError(
                f"{name} is {number}, and the {split} data set has {len(classes)} classes; set the one or the other "
                "(dataset.metainfo.classes)"
            )


def check_pretrained(cfg: Config) -> None:
    """Fetch and read every checkpoint that the model is to start from.

    Raises:
        UserError: If one of them can't be had or read.
    """
    for node in dicts(cfg.model):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained":
            source = init_cfg["checkpoint"]
            if "://" not in source or source.startswith(("http://", "https://", SCHEME)):
                with rank_0_first():
                    read_checkpoint(source)  # other schemes, as torchvision://, are mmengine's


def build_model(cfg: Config, source: str) -> nn.Module:
    """The config's model with a checkpoint's weights, in eval mode.

    Args:
        cfg (Config): Of the experiment, from :func:`load_config`.
        source (str): Checkpoint file or URL.

    Raises:
        UserError: If the config does not build or the checkpoint is not of this model.
        WeightsError: If the checkpoint can't be had or read.
    """
    checkpoint = read_checkpoint(source)
    model = build_random(cfg)
    model.load_state_dict(check_whole(model, checkpoint, source))
    return model


def build_random(cfg: Config) -> nn.Module:
    """The config's model as its constructor leaves it, in eval mode; nothing is downloaded.

    Raises:
        UserError: If the config does not build.
    """
    from mmengine.model import revert_sync_batchnorm

    init_default_scope(cfg.default_scope)
    if "data_preprocessor" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)  # as the runner does
    drop_weights(cfg.model)  # a checkpoint has it all
    with building():
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.eval()
    return model


def check_whole(model: nn.Module, checkpoint: dict, source: str) -> dict[str, torch.Tensor]:
    """See that a checkpoint is of this very model, heads and all, as testing and resuming need it.

    Returns:
        dict[str, Tensor]: The weights, by the model's names.

    Raises:
        UserError: If keys are missing, left over or of another shape; the message counts and names them.
    """
    model = bare(model)
    own = model.state_dict()
    is_van = isinstance(getattr(model, "backbone", None), VAN)
    try:
        weights = match_state_dict(model, checkpoint) if is_van else unwrap(checkpoint)
    except WeightsError as error:
        raise UserError(f"{source} is not of this config's model: {error}") from error
    problems = mismatches(own, weights)
    if problems:
        size = None if is_van else guess_arch(split_state_dict(weights)[0])
        hint = f". It has a VAN-{size.upper()}: add --backbone {size}" if size else ""
        raise UserError(f"{source} is not of this config's model: of {len(own)} keys, {'; '.join(problems)}{hint}")
    return weights
