"""The config of a run: a config file, changed as the command line asks, with the guards that every run has.

PyTorch is imported when it is needed, because it takes seconds, and a config that does not load is reported before.
"""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from van_mm.apis.configs import find_config, get_experiment_config, get_run_name
from van_mm.apis.run_options import RunOptions
from van_mm.datasets.checks.files import check_data_files, find_dataset_cfgs
from van_mm.demo.demo_config import apply_demo
from van_mm.utils.codebases import import_codebase
from van_mm.utils.config_walk import get_type_name
from van_mm.utils.errors import UserError
from van_mm.utils.launchers import read_rank

SPLITS = ("train", "val", "test")


def get_run_config(
    name: str,
    *,
    cfg_options: dict | None = None,
    backbone: str | None = None,
    paper_optimizer: bool = False,
    options: RunOptions | None = None,
    demo: bool = False,
    demo_root: str = "data/demo",
    demo_iters: int | None = None,
    work_dir: str | None = None,
    launcher: str = "none",
) -> Config:
    """Load a config and change it for a run. Every change is printed, once in a job of several processes.

    Args:
        name (str): A config file, a name below ``configs/``, or an upstream name (``mmdet::...``).
        cfg_options (dict, optional): Settings to override, by dotted key. They win over all other changes.
        backbone (str, optional): Size of a VAN that replaces the backbone, ``'b0'`` to ``'b6'``.
        paper_optimizer (bool): Use the paper's optimizer for the task. Defaults to False.
        options (RunOptions, optional): Data of one's own, the length of the run, and the like.
        demo (bool): Run on a small generated data set. Defaults to False.
        demo_root (str): Folder of the generated data sets. Defaults to 'data/demo'.
        demo_iters (int, optional): Optimizer steps instead of the demo's own.
        work_dir (str, optional): Folder of logs and checkpoints. Defaults to the config's, or to ``work_dirs/`` (for
            demos ``work_dirs/demo/``) and the config's name.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. This process joins the job of the launcher.
            Defaults to 'none'.

    Returns:
        Config: Ready for ``Runner.from_cfg``.

    Raises:
        ConfigNotFoundError: If there is no such config.
        UserError: If the config does not load or is not an experiment, or if a change does not fit it.
    """
    cfg = load_experiment(name)
    if not read_rank(launcher):
        print(describe_experiment(name, cfg), flush=True)
    object.__setattr__(cfg, "_format_python_code", False)  # mmengine formats it five times a run, half a second each
    options = (options or RunOptions()).fill_from(cfg, with_data=not demo)
    cfg.launcher = launcher
    if launcher != "none":
        from van_mm.engine.distributed.processes import join_job

        change_settings(cfg, {key: value for key, value in (cfg_options or {}).items() if key.startswith("env_cfg")})
        join_job(cfg)  # before anything that one process can do for all, or that depends on their number
    is_swapped = change_backbone_and_optimizer(cfg, backbone, paper_optimizer)
    run_name = get_run_name(name, backbone if is_swapped else None, options.data)
    default_work_dir = Path("work_dirs", "demo" if demo else "", run_name)
    cfg.work_dir = work_dir or cfg.get("work_dir") or f"./{default_work_dir}"
    add_guards(cfg)
    if demo and options.data is not None:
        raise UserError("--demo and --data both choose the data. Give one of them")
    if demo:
        try:
            changes = apply_demo(cfg, demo_root, demo_iters)
        except ValueError as error:
            raise UserError(error) from error
        if leads_job(cfg):
            print("--demo changes the config:\n  " + "\n  ".join(changes), flush=True)
    elif demo_iters is not None:
        raise UserError("--demo-iters goes with --demo")
    apply_options(cfg, options)
    change_settings(cfg, cfg_options)
    keep_workers(cfg)
    if launcher != "none":
        from van_mm.engine.distributed.processes import use_cpu_wrapper

        use_cpu_wrapper(cfg)
    return cfg


def leads_job(cfg: Config) -> bool:
    """Return whether this process prints and decides for all processes of its job, as one without a job does."""
    if cfg.get("launcher", "none") == "none":
        return True
    from mmengine.dist import is_main_process

    return is_main_process()


def apply_options(cfg: Config, options: RunOptions) -> None:
    """Apply the options of a run to its config, and print what changed."""
    changes = options.apply(cfg)
    if changes and leads_job(cfg):
        print("\n  ".join(["the flags change the config:", *changes]), flush=True)


def dump_config(
    name: str,
    file: str | Path,
    *,
    cfg_options: dict | None = None,
    backbone: str | None = None,
    paper_optimizer: bool = False,
    options: RunOptions | None = None,
    launcher: str = "none",
) -> None:
    """Write a config, changed by :func:`get_run_config`'s arguments of the same names, as a config file of its own.

    In a job of several processes, rank 0 writes it.
    """
    if read_rank(launcher):
        return
    cfg = load_experiment(name)
    print(describe_experiment(name, cfg), flush=True)
    options = (options or RunOptions()).fill_from(cfg)
    change_backbone_and_optimizer(cfg, backbone, paper_optimizer)
    apply_options(cfg, options)
    change_settings(cfg, cfg_options)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(file)
    print(f"wrote {file}")


def load_experiment(name: str) -> Config:
    """Load a config that can train and test, with the data loader defaults of mmpretrain's own tools.

    Raises:
        ConfigNotFoundError: If there is no such config.
        UserError: If it does not load, or lacks a model or a data loader.
    """
    cfg = get_experiment_config(find_config(name), ("model", "train_dataloader", "test_dataloader"))
    if cfg.default_scope == "mmpretrain":
        import torch

        for split in SPLITS:
            loader = cfg.get(f"{split}_dataloader")
            if loader:
                loader.setdefault("collate_fn", ConfigDict(type="default_collate"))
                loader.setdefault("pin_memory", torch.cuda.is_available())
    return cfg


def describe_experiment(name: str, cfg: Config) -> str:
    """Return the name of a config with its model, backbone and data set in one line."""
    backbone = cfg.model.get("backbone") or {}
    size = f" {backbone.arch}" if isinstance(backbone.get("arch"), str) else ""
    parts = (get_type_name(cfg.model), get_type_name(backbone) + size)
    datasets = {get_type_name(dataset): None for dataset in find_dataset_cfgs(cfg, ("train",))}
    return f"{name}: {cfg.default_scope}'s {' with '.join(filter(None, parts))}, on {', '.join(datasets)}"


def change_settings(cfg: Config, cfg_options: dict | None) -> None:
    """Apply ``--cfg-options``, if there are any."""
    if cfg_options:
        import_codebase(cfg.default_scope)
        from van_mm.utils.cfg_options import apply_cfg_options

        apply_cfg_options(cfg, cfg_options)


def change_backbone_and_optimizer(cfg: Config, backbone: str | None, paper_optimizer: bool) -> bool:
    """Apply ``--backbone`` and ``--optim``, and print what changed. Rank 0 of a job does so for all ranks.

    Returns:
        bool: Whether the config has another backbone now.
    """
    if not (backbone or paper_optimizer):
        return False
    from mmengine.dist import broadcast_object_list

    from van_mm.apis.backbone_swap import swap_backbone, use_paper_optimizer

    shared = [None]
    if leads_job(cfg):
        swapped = swap_backbone(cfg, backbone) if backbone else []
        changes = [*swapped, *(use_paper_optimizer(cfg) if paper_optimizer else [])]
        if changes:
            print("\n  ".join(["--backbone and --optim change the config:", *changes]), flush=True)
        shared = [(bool(swapped), cfg._cfg_dict.to_dict())]
    broadcast_object_list(shared)
    is_swapped, settings = shared[0]
    if not leads_job(cfg):
        for key, value in settings.items():
            cfg[key] = value
    return is_swapped


def add_guards(cfg: Config) -> None:
    """Add the hooks that protect a run, and write its checkpoints atomically (see docs/long_runs.md).

    Guards that the config has already, as the config in the work dir of an earlier run does, stay as they are.
    """
    weights_hook = ConfigDict(type="van_mm.AnyVANWeightsHook", priority="VERY_HIGH")  # before EMAHook copies weights
    names = ("Divergence", "ExactResume", "Stop", "PlainTypes", "ValidationTrial")
    guards = [ConfigDict(type=f"van_mm.{name}Hook") for name in names]
    for hook in (weights_hook, *guards):
        add_hook(cfg, hook)
    checkpoint_hook = cfg.get("default_hooks", {}).get("checkpoint", {})
    if "://" not in str(checkpoint_hook.get("out_dir", "")):
        checkpoint_hook.setdefault("backend_args", ConfigDict(backend="van_mm.AtomicBackend"))


def add_hook(cfg: Config, hook: dict) -> None:
    """Add a hook to ``custom_hooks`` unless one of its type is there."""
    hooks = list(cfg.get("custom_hooks") or [])
    if get_type_name(hook) not in map(get_type_name, hooks):
        cfg.custom_hooks = [*hooks, hook]


def keep_workers(cfg: Config) -> None:
    """Keep the workers of data loaders, if there are any, from epoch to epoch, as mmpretrain's tools do by default."""
    for split in SPLITS:
        loader = cfg.get(f"{split}_dataloader")
        if loader:
            is_persistent = loader.get("persistent_workers", cfg.default_scope == "mmpretrain")
            loader.persistent_workers = bool(is_persistent and loader.get("num_workers"))


def prepare_data(cfg: Config, splits: tuple[str, ...], demo: bool = False) -> None:
    """Generate the demo's data, if the run is a demo, and check that every file of the data sets exists.

    Args:
        cfg (Config): From :func:`get_run_config`.
        splits (tuple[str]): The splits that the run needs, of ``'train'``, ``'val'`` and ``'test'``.
        demo (bool): Generate what is missing. Defaults to False.

    Raises:
        UserError: If a file or folder is missing. The message shows the expected layout.
    """
    if demo:
        from van_mm.demo.demo_data import make_demo_data
        from van_mm.engine.distributed.processes import take_turns

        for dataset in find_dataset_cfgs(cfg, SPLITS):
            try:
                with take_turns():
                    make_demo_data(dataset.type, dataset.data_root)
            except (ValueError, OSError) as error:
                raise UserError(error) from error
    check_data_files(cfg, splits)
