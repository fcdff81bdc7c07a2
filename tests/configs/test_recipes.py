"""Every config builds the recipe of the paper and trains."""

import re
from fnmatch import fnmatch

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from van_mm import get_config, list_configs
from van_mm.apis.configs import find_config
from van_mm.models.backbones.van import get_arch_settings
from van_mm.paper.tables import load_paper
from van_mm.utils.config_walk import replace_data_root

RECIPES = load_paper()["recipes"]
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # mean and standard deviation, RGB
# One config of each kind of experiment. Other configs differ only in numbers; `pytest -m slow` trains them.
QUICK = {
    "cls/ablation/van_b0_k28_in1k",
    "cls/van_b4_in22k",
    "cls/van_b4_in22k_cub",
    "cls/van_b4_in22k_ft_in1k_384",
    "det/gfl_van_b2_ms_3x_coco",
    "det/mask_rcnn_lsknet_t_1x_coco",
    "seg/upernet_van_lska_b0",
    "det/mask2former_van_b6_in22k_50e_coco_panoptic",
    "pose/simplebaseline_van_b2_coco_384x288",
    "seg/edn_van_b2_duts",
    "seg/semantic_fpn_van_b1",
    "seg/upernet_van_b6_in22k",
}


def recipe_of(config: str) -> dict:
    """Return the only recipe whose patterns match a config."""
    matches = [recipe for recipe in RECIPES.values() if any(fnmatch(config, pattern) for pattern in recipe["configs"])]
    assert len(matches) == 1, config
    return matches[0]


def get_shallow_arch(arch: str) -> dict:
    """Return VAN settings with the widths of ``arch`` and one block per stage."""
    return dict(embed_dims=get_arch_settings(arch)["embed_dims"], depths=[1, 1, 1, 1], mlp_ratios=[1, 1, 1, 1])


def build(config: str, demo_root, tmp_path, gpus: int = 0) -> Runner:
    """Build the runner of a config on demo data, with the data pipeline of the config, as ``Runner.train`` does.

    With ``gpus``, scale the learning rate as ``--auto-scale-lr`` does on that many GPUs.
    """
    cfg = get_config(config)
    cfg.work_dir = str(tmp_path)
    cfg.log_level = "ERROR"
    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        cfg[name] = replace_data_root(cfg[name], str(demo_root))
    if cfg.default_scope == "mmpretrain":
        cfg.train_dataloader.collate_fn = dict(type="default_collate")
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, drop_last=False)
    cfg.model.backbone.update(arch=get_shallow_arch(cfg.model.backbone.arch), init_cfg=None)
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if gpus:
        runner._world_size = gpus
        runner.scale_lr(runner.optim_wrapper, dict(runner.cfg.auto_scale_lr, enable=True))
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def transforms(pipeline) -> list:
    """Return every transform of a built pipeline, including transforms inside wrappers."""
    flat = []
    for node in pipeline.transforms:
        for inner in node if isinstance(node, (list, tuple)) else [node]:
            flat += [inner, *(transforms(inner) if hasattr(inner, "transforms") else [])]
    return flat


def read_test_sizes(pipeline) -> dict:
    """Return the sizes of the transforms of a test pipeline that resize or crop, by the name of their class."""
    sizes = {}
    for transform in transforms(pipeline):
        size = getattr(transform, "crop_size", None) or getattr(transform, "scale", None)
        if size:
            sizes[type(transform).__name__] = list(size) if isinstance(size, tuple) else size
    return sizes


def check_normalization(recipe: dict, preprocessor, pipeline) -> None:
    """Check mean and standard deviation, and that augmentation fills images, which are BGR, with them."""
    mean, std = IMAGENET if recipe["mean"] == "imagenet" else ([float(recipe["mean"])] * 3,) * 2
    assert preprocessor.mean.flatten().tolist() == pytest.approx(mean)
    assert preprocessor.std.flatten().tolist() == pytest.approx(std)
    flags = ("to_rgb", "channel_conversion", "_channel_conversion")  # of mmpretrain, mmseg, and mmdet and mmpose
    assert any(getattr(preprocessor, flag, False) for flag in flags)
    for transform in transforms(pipeline):
        if type(transform).__name__ == "RandomErasing":
            assert list(transform.fill_color) == mean[::-1] and list(transform.fill_std) == std[::-1]
        if type(transform).__name__ == "RandAugment":
            pads = {inner.pad_val for inner in transform.transforms if hasattr(inner, "pad_val")}
            assert pads == {tuple(round(value) for value in mean[::-1])}


def inner_dataset(dataset):
    return dataset if hasattr(dataset, "pipeline") else inner_dataset(dataset.dataset)


@pytest.mark.parametrize("config", list_configs())
def test_recipe(config, demo_root, tmp_path):
    """The runner has the settings of the paper, section 4."""
    recipe = recipe_of(config)
    size = re.search(r"lsknet_[ts]|(lska_)?b\d", config)[0]
    runner = build(config, demo_root, tmp_path)
    model, loader, loop = runner.model, runner.train_dataloader, runner.train_loop
    steps = loop.max_iters // loop.max_epochs if "epochs" in recipe else 1  # per epoch

    optimizer = runner.optim_wrapper.optimizer
    assert type(optimizer).__name__ == recipe["optimizer"]["type"]
    assert optimizer.defaults["lr"] == float(recipe["optimizer"]["lr"])
    assert optimizer.defaults["weight_decay"] == float(recipe["optimizer"].get("weight_decay", 0))
    batch_size = loader.batch_size or loader.batch_sampler.batch_size  # mmdet batches images by aspect ratio
    assert batch_size * recipe["gpus"] == recipe["batch"] == runner.cfg.auto_scale_lr.base_batch_size
    if "epochs" in recipe:
        assert loop.max_epochs == recipe["epochs"]
    else:
        assert loop.max_iters == recipe["iters"]

    names = {id(p): name for name, p in model.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for suffix in recipe.get("decay_free", []):
        names_with_suffix = [name for name in decay if name.endswith(suffix) and name.startswith("backbone")]
        assert all(decay[name] == 0 for name in names_with_suffix)
        assert names_with_suffix or (suffix == "layer_scale_1" and "wo_ls" in config)
    assert decay["backbone.block1.0.mlp.fc1.weight"] == optimizer.defaults["weight_decay"]
    if "norm_decay" in recipe:
        norms = [name for name, module in model.named_modules() if isinstance(module, (_BatchNorm, torch.nn.LayerNorm))]
        norms = [f"{name}.{kind}" for name in norms if name.startswith("backbone") for kind in ("weight", "bias")]
        assert len(norms) == 2 * 4 * 4  # a stage has norms in its patch embedding, its single block (2) and its output
        assert {decay[name] for name in norms} == {recipe["norm_decay"]}
    if "backbone_lr_mult" in recipe:
        lrs = {g["lr"] for g in optimizer.param_groups for p in g["params"] if names[id(p)].startswith("backbone")}
        assert sorted(lrs) == [pytest.approx(optimizer.defaults["lr"] * float(recipe["backbone_lr_mult"]))]

    schedule = recipe["schedule"]
    schedulers = {type(scheduler).__name__: scheduler for scheduler in runner.param_schedulers}
    main = schedulers[schedule["type"]]
    if "milestones" in schedule:
        assert sorted(main.milestones) == schedule["milestones"] and main.gamma == 0.1
    else:
        assert main.end == (loop.max_epochs if main.by_epoch else loop.max_iters)
    if "power" in schedule:
        assert main.power == float(schedule["power"]) and main.eta_min == 0
    warmup = schedule.get("warmup_iters") or schedule.get("warmup_epochs", 0) * steps
    if warmup:
        assert schedulers["LinearLR"].end == warmup
        assert "milestones" in schedule or main.begin * (steps if main.by_epoch else 1) == warmup
    elif "warmup_epochs" in schedule:
        assert "LinearLR" not in schedulers and main.begin == 0

    if "drop_path" in recipe:
        assert model.backbone.block4[-1].drop_path.drop_prob == pytest.approx(float(recipe["drop_path"][size]))
    pipeline = inner_dataset(loader.dataset).pipeline
    applied = {type(transform).__name__ for transform in transforms(pipeline)}
    if augments := getattr(model.data_preprocessor, "batch_augments", None):
        applied |= {type(augment).__name__ for augment in getattr(augments, "augments", augments)}
    assert set(recipe.get("augmentation", [])) <= applied
    assert not set(recipe.get("augmentation_absent", [])) & applied
    if "label_smoothing" in recipe:
        assert getattr(model.head.loss_module, "label_smooth_val", 0) == float(recipe["label_smoothing"])
    if "ema" in recipe:
        ema_hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        assert bool(ema_hooks) == recipe["ema"]
        assert all(hook.ema_cfg.get("update_buffers", False) == recipe["ema_buffers"] for hook in ema_hooks)
    if "head_init" in recipe:
        model.head.init_weights()
        assert model.head.fc.weight.std().item() == pytest.approx(float(recipe["head_init"]["std"]), rel=0.02)
        assert model.head.fc.bias.unique().item() == recipe["head_init"]["bias"]
    if "mean" in recipe:
        check_normalization(recipe, model.data_preprocessor, pipeline)
    if "sigma" in recipe:
        (target,) = [t for t in transforms(pipeline) if type(t).__name__ == "GenerateTarget"]
        assert target.encoder.sigma == recipe["sigma"][config.rsplit("_", 1)[1]]
    if "crop" in recipe:
        batch = model.data_preprocessor(next(iter(loader)), True)
        assert list(batch["inputs"].shape[-2:]) == recipe["crop"]
    if "test_resize" in recipe:
        for name in ("val_dataloader", "test_dataloader"):
            test_pipeline = runner.build_dataloader(runner.cfg[name]).dataset.pipeline
            assert read_test_sizes(test_pipeline) == recipe["test_resize"]
    if "test_multiple" in recipe:
        dataset = runner.build_dataloader(runner.cfg.val_dataloader).dataset
        sizes = [t.size_divisor for t in transforms(dataset.pipeline) if type(t).__name__ == "ResizeToMultiple"]
        assert sizes == [recipe["test_multiple"]]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipe_names_the_source_of_each_value(recipe):
    """Each value, or each part of a value, has a source, and each source belongs to a value."""
    sources = recipe["sources"]
    parts = {
        key: {f"{key}.{part}" for part in value} if isinstance(value, (dict, list)) else set()
        for key, value in recipe.items()
        if key not in ("configs", "note", "sources")
    }
    assert [key for key in parts if key not in sources and not (parts[key] and parts[key] <= set(sources))] == []
    assert set(sources) <= set(parts).union(*parts.values())
    for source in sources.values():
        text, _, reason = source.partition(":")
        assert text.strip() and (reason.strip() or not text.startswith("our choice")), source


@pytest.mark.parametrize("config", ["det/retinanet_van_b0_1x_coco", "seg/semantic_fpn_van_b0", "cls/van_b0_in1k"])
@pytest.mark.parametrize("gpus", [1, 4, 8, 16])
def test_auto_scale_lr(config, gpus, demo_root, tmp_path):
    """The learning rate is that of the recipe on 8 GPUs, and scales linearly with the number of GPUs."""
    group = build(config, demo_root, tmp_path, gpus).optim_wrapper.optimizer.param_groups[0]
    assert group["initial_lr"] == pytest.approx(float(recipe_of(config)["optimizer"]["lr"]) * gpus / 8)


@pytest.mark.parametrize(
    "config",
    [config if config in QUICK else pytest.param(config, marks=pytest.mark.slow) for config in list_configs()],
)
def test_demo_trains(config, demo_root, run_tool):
    """Every config trains with tools/train.py. B4, B5 and B6 have one block per stage here, to save time."""
    size = re.search(r"lsknet_[ts]|b\d", config)[0]
    options = []
    if size in ("b4", "b5", "b6"):
        values = {"_delete_": True} | {
            key: str(value).replace(" ", "") for key, value in get_shallow_arch(size).items()
        }
        options = ["--cfg-options", *(f"model.backbone.arch.{key}={value}" for key, value in values.items())]
    done = run_tool("train", config, "--demo", "--demo-iters", 2, "--demo-root", demo_root, "--no-validate", *options)
    assert done.returncode == 0, done.stdout
    assert "iter_2.pth" in done.stdout or "2 iterations" in done.stdout


def test_config_names():
    names = list_configs()
    assert "seg/upernet_van_b2" in names and "cls/ablation/van_b0_k7_in1k" in names
    assert not any("_base_" in name for name in names)
    assert list_configs("pose/*_van_b?_*") == [
        "pose/simplebaseline_van_b2_coco_256x192",
        "pose/simplebaseline_van_b2_coco_384x288",
    ]
    assert get_config("seg/upernet_van_b2").model.backbone.arch == "b2"
    with pytest.raises(FileNotFoundError, match="seg/upernet_van_b2"):
        find_config("upernet_van_b22")


def test_upstream_config_names():
    name = "mmdet::retinanet/retinanet_r50_fpn_1x_coco"
    assert find_config(name) == find_config(f"{name}.py")
    assert get_config(name).model.type == "RetinaNet"
    with pytest.raises(FileNotFoundError, match="mmseg::upernet/upernet_r"):
        find_config("mmseg::upernet/upernet_r51_4xb2-40k_cityscapes-512x1024")
    with pytest.raises(FileNotFoundError, match="package mmtrack is not installed"):
        find_config("mmtrack::sort/deepsort")


def test_multi_scale_test_scales_the_test_size():
    """The published multi-scale test scales 2048 x 512, not the original image size."""
    resizes = get_config("seg/upernet_van_b2").tta_pipeline[1].transforms[0]
    assert [tuple(resize.scale) for resize in resizes][:3] == [(1024, 256), (1536, 384), (2048, 512)]
