"""The settings of a run that its user types, each as settings of mmengine.

PyTorch is imported when it is needed, because it takes seconds, and a config that does not load is reported before.
"""

import copy
import json
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec

from mmengine.config import Config, ConfigDict

from van_mm.apis.main_metric import find_main_metric
from van_mm.utils.config_walk import get_type_name
from van_mm.utils.errors import UserError
from van_mm.utils.run_length import set_run_length

# mmengine's back ends: the package that each needs, and settings that work without a network or an account.
TRACKERS = {
    "tensorboard": ("tensorboard", dict(type="TensorboardVisBackend")),
    "wandb": ("wandb", dict(type="WandbVisBackend", init_kwargs=dict(mode="offline"))),
    "mlflow": ("mlflow", dict(type="MLflowVisBackend")),
    "aim": ("aim", dict(type="AimVisBackend")),
}


@dataclass
class RunOptions:
    """What the command line asks for, beside the config.

    Attributes:
        data (str, optional): Folder of one's own data, see :func:`van_mm.use_data`.
        ignore_index (int, optional): Value of its label maps that stands for no class.
        image_size (int, optional): Longer side of the images in pixels.
        pretrained (bool, optional): As in :func:`van_mm.use_data`.
        epochs (int, optional): Length of the run.
        iters (int, optional): Length of the run in iterations.
        batch (str, optional): Images in a batch of each process, or ``'auto'``.
        lr (str, optional): Learning rate, or ``'auto'``, which scales it with the batch size.
        track (str, optional): A key of ``TRACKERS``.
        save_best (bool): Keep the checkpoint with the best main metric.
        early_stop (int, optional): Validations without an improvement after which the run ends.
        seed (int, optional): Seed of the run.
    """

    data: str | None = None
    ignore_index: int | None = None
    image_size: int | None = None
    pretrained: bool | None = None
    epochs: int | None = None
    iters: int | None = None
    batch: str | None = None
    lr: str | None = None
    track: str | None = None
    save_best: bool = False
    early_stop: int | None = None
    seed: int | None = None

    def fill_from(self, cfg: Config, with_data: bool = True) -> "RunOptions":
        """Return these options, where nothing is set with those of the config's ``run_options``, which are removed.

        Args:
            cfg (Config): A config that may have ``run_options = dict(data="data/cells", epochs=20)``.
            with_data (bool): Whether to take the options of the data. Defaults to True.

        Raises:
            UserError: If the config has options that do not exist.
        """
        own = dict(cfg._cfg_dict.pop("run_options", None) or {})
        names = {field.name for field in fields(self)}
        if unknown := sorted(set(own) - names):
            raise UserError(f"run_options has no {', '.join(unknown)}. It has {', '.join(sorted(names))}")
        if not with_data:
            own = {name: value for name, value in own.items() if name not in ("data", "ignore_index", "image_size")}
        if self.epochs is not None or self.iters is not None:  # the command line's length replaces the config's
            own = {name: value for name, value in own.items() if name not in ("epochs", "iters")}
        for name in ("batch", "lr"):
            if name in own:
                own[name] = str(own[name])
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) in (None, False)})

    def apply(self, cfg: Config) -> list[str]:
        """Change a config in place.

        Returns:
            list[str]: The changes, one line each.

        Raises:
            UserError: If options do not fit each other, the config or the data.
        """
        if self.epochs is not None and self.iters is not None:
            raise UserError("--epochs and --iters both set the length of the run. Give one of them")
        for flag in ("ignore_index", "image_size"):
            if getattr(self, flag) is not None and self.data is None:
                raise UserError(f"--{flag.replace('_', '-')} goes with --data. Without it, change the config")
        changes = []
        batch = parse_number(self.batch, "--batch", int)
        if batch == "auto":
            batch, reason = self.find_batch_size(cfg)
            changes.append(f"--batch auto: {batch} ({reason})")
        if self.data is not None:
            changes += self.use_data(cfg, batch, self.pretrained)
        else:
            if batch is not None:
                cfg.train_dataloader.batch_size = batch
                changes.append(f"batch size: {batch}")
            if self.epochs is not None or self.iters is not None:
                changes += change_length(cfg, self.epochs, self.iters)
        if self.lr is not None:
            changes.append(set_lr(cfg, self.lr))
        if self.track is not None:
            changes.append(add_tracker(cfg, self.track))
        if self.save_best or self.early_stop is not None:
            changes += keep_best(cfg, self.early_stop)
        if self.seed is not None:
            cfg.randomness = ConfigDict(cfg.get("randomness") or {}, seed=self.seed)
            changes.append(f"seed: {self.seed}")
        return changes

    def use_data(self, cfg: Config, batch: int | None, pretrained: bool | None) -> list[str]:
        """Apply ``--data`` and the flags that belong to it."""
        from van_mm.apis.own_data import use_data

        return use_data(
            cfg,
            self.data,
            ignore_index=self.ignore_index,
            image_size=self.image_size,
            batch_size=batch,
            epochs=self.epochs,
            iters=self.iters,
            pretrained=pretrained,
        )

    def find_batch_size(self, cfg: Config) -> tuple[int, str]:
        """Apply ``--batch auto``: find the batch on a copy of the config that has the data."""
        from mmengine.dist import broadcast_object_list

        from van_mm.apis.batch_size import find_batch_size

        draft = Config(copy.deepcopy(cfg._cfg_dict))
        if self.data is not None:
            with redirect_stdout(None):
                self.use_data(draft, None, pretrained=True)
            draft.auto_scale_lr = cfg.get("auto_scale_lr")
        found = [find_batch_size(draft)]
        broadcast_object_list(found)  # the memory of the first process decides for all
        return found[0]


def parse_number(text: str | None, flag: str, kind: type):
    """Return a positive number that a flag gives, ``'auto'``, or None."""
    if text is None or text == "auto":
        return text
    try:
        number = kind(text)
        if number <= 0:
            raise ValueError
    except ValueError:
        raise UserError(f"{flag} {text} is neither a positive number nor 'auto'") from None
    return number


def change_length(cfg: Config, epochs: int | None, iters: int | None) -> list[str]:
    """Apply ``--epochs`` or ``--iters`` to a config with its own data set."""
    if not cfg.get("train_cfg"):
        raise UserError("--epochs and --iters: this config has no train_cfg. Use a config that trains")
    try:
        return set_run_length(cfg, iters if epochs is None else epochs, by_epoch=epochs is not None)
    except ValueError as error:
        raise UserError(f"--epochs and --iters: {error}. Choose a larger number") from error


def set_lr(cfg: Config, lr: str) -> str:
    """Apply ``--lr``: a learning rate, or ``auto``, which is mmengine's ``auto_scale_lr``."""
    number = parse_number(lr, "--lr", float)
    optimizer = cfg.optim_wrapper.optimizer
    if number != "auto":
        old, optimizer.lr = optimizer.lr, number
        return f"learning rate: {old:g} -> {number:g}"
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    if not base:
        raise UserError(
            "--lr auto: the config has no auto_scale_lr.base_batch_size. Give the learning rate as a number"
        )
    from mmengine.dist import get_world_size

    cfg.auto_scale_lr.enable = True
    batch = cfg.train_dataloader.batch_size * get_world_size()
    return f"learning rate: {optimizer.lr:g} at batch size {base} -> {optimizer.lr * batch / base:g} at {batch}"


def add_tracker(cfg: Config, name: str) -> str:
    """Apply ``--track``: add a back end to the visualizer."""
    package, backend = TRACKERS[name]
    if find_spec(package) is None:
        raise UserError(f"--track {name} needs the package {package}. Install it: pip install {package}")
    visualizer = cfg.setdefault("visualizer", ConfigDict(type="Visualizer"))
    backends = list(visualizer.get("vis_backends") or [ConfigDict(type="LocalVisBackend")])
    if get_type_name(backend) not in map(get_type_name, backends):
        visualizer.vis_backends = [*backends, ConfigDict(json.loads(json.dumps(backend)))]
    return f"tracking: {backend['type']}{', offline' if name == 'wandb' else ''}"


def keep_best(cfg: Config, patience: int | None) -> list[str]:
    """Apply ``--save-best`` and ``--early-stop``, which both compare the main metric of validations."""
    if cfg.get("val_cfg") is None or not cfg.get("val_evaluator"):
        raise UserError("--save-best and --early-stop: this config does not validate. Give it a val_dataloader")
    metric = find_main_metric(cfg)
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook")).update(save_best=metric, rule="greater")
    changes = [f"best checkpoint: by {metric}"]
    if patience is not None:
        if patience < 1:
            raise UserError(f"--early-stop must be at least 1 validation, got {patience}. Choose another number")
        stop = ConfigDict(type="EarlyStoppingHook", monitor=metric, rule="greater", patience=patience)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), stop]
        changes.append(f"early stopping: after {patience} validations without a better {metric}")
    return changes
