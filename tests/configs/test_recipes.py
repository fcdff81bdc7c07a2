"""The experiments' configs build the paper's recipes, and every one of them trains."""

from fnmatch import fnmatch

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from van_mm import get_config, list_configs
from van_mm.apis.configs import find_config
from van_mm.models.backbones.van import get_arch_settings
from van_mm.paper.tables import load_paper
from van_mm.utils.config_walk import replace_data_root

RECIPES = load_paper()["recipes"]
# One of each kind of experiment; the others differ from it in numbers, and are trained by `pytest -m slow`.
QUICK = {
    "cls/ablation/van_b0_k28_in1k",
    "cls/van_b4_in22k",
    "cls/van_b4_in22k_cub",
    "cls/van_b4_in22k_ft_in1k_384",
    "det/gfl_van_b2_ms_3x_coco",
    "det/mask2former_van_b6_in22k_50e_coco_panoptic",
    "pose/simplebaseline_van_b2_coco_384x288",
    "seg/edn_van_b2_duts",
    "seg/semantic_fpn_van_b1",
    "seg/upernet_van_b6_in22k",
}


def recipe_of(config: str) -> dict:
    """The one recipe whose patterns match a config."""
    found = [recipe for recipe in RECIPES.values() if any(fnmatch(config, pattern) for pattern in recipe["configs"])]
    assert len(found) == 1, config
    return found[0]


def shallow(arch: str) -> dict:
    """A VAN of the same widths with a block a stage."""
    return dict(embed_dims=get_arch_settings(arch)["embed_dims"], depths=[1, 1, 1, 1], mlp_ratios=[1, 1, 1, 1])


def build(config: str, demo_root, tmp_path, gpus: int = 0) -> Runner:
    """The config's runner with the config's own data pipeline on generated data, as ``Runner.train`` builds it; with
    ``gpus``, as ``--auto-scale-lr`` does on so many."""
    cfg = get_config(config)
    cfg.work_dir = str(tmp_path)
    cfg.log_level = "ERROR"
    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        cfg[name] = replace_data_root(cfg[name], str(demo_root))
    if cfg.default_scope == "mmpretrain":
        cfg.train_dataloader.collate_fn = dict(type="default_collate")
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, drop_last=False)
    cfg.model.backbone.update(arch=shallow(cfg.model.backbone.arch), init_cfg=None)
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if gpus:
        runner._world_size = gpus
        runner.scale_lr(runner.optim_wrapper, dict(runner.cfg.auto_scale_lr, enable=True))
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def transforms(pipeline) -> list:
    """Every transform of a built pipeline, those inside wrappers too."""
    found = []
    for node in pipeline.transforms:
        for inner in node if isinstance(node, (list, tuple)) else [node]:
            found += [inner, *(transforms(inner) if hasattr(inner, "transforms") else [])]
    return found


def inner_dataset(dataset):
    return dataset if hasattr(dataset, "pipeline") else inner_dataset(dataset.dataset)


@pytest.mark.parametrize("config", list_configs())
def test_recipe(config, demo_root, tmp_path):
    """What the paper's section 4 says is what the built runner does."""
    recipe = recipe_of(config)
    size = config.split("van_")[1][:2]
    runner = build(config, demo_root, tmp_path)
    model, loader, loop = runner.model, runner.train_dataloader, runner.train_loop
    steps = loop.max_iters // loop.max_epochs if "epochs" in recipe else 1  # an epoch's

    optimizer = runner.optim_wrapper.optimizer
    assert type(optimizer).__name__ == recipe["optimizer"]["type"]
    assert optimizer.defaults["lr"] == float(recipe["optimizer"]["lr"])
    assert optimizer.defaults["weight_decay"] == float(recipe["optimizer"].get("weight_decay", 0))
    batch_size = loader.batch_size or loader.batch_sampler.batch_size  # mmdet groups images by their shape
    assert batch_size * recipe["gpus"] == recipe["batch"] == runner.cfg.auto_scale_lr.base_batch_size
    if "epochs" in recipe:
        assert loop.max_epochs == recipe["epochs"]
    else:
        assert loop.max_iters == recipe["iters"]

    names = {id(p): name for name, p in model.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for suffix in recipe.get("decay_free", []):
        kept = [name for name in decay if name.endswith(suffix) and name.startswith("backbone")]
        assert all(decay[name] == 0 for name in kept)
        assert kept or (suffix == "layer_scale_1" and "wo_ls" in config)
    assert decay["backbone.block1.0.mlp.fc1.weight"] == optimizer.defaults["weight_decay"]

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

    if size in recipe.get("drop_path", {}):
        assert model.backbone.block4[-1].drop_path.drop_prob == pytest.approx(float(recipe["drop_path"][size]))
    seen = {type(transform).__name__ for transform in transforms(inner_dataset(loader.dataset).pipeline)}
    if augments := getattr(model.data_preprocessor, "batch_augments", None):
        seen |= {type(augment).__name__ for augment in getattr(augments, "augments", augments)}
    assert set(recipe.get("augmentation", [])) <= seen
    if "label_smoothing" in recipe:
        assert model.head.loss_module.label_smooth_val == float(recipe["label_smoothing"])
    if "ema" in recipe:
        assert any(isinstance(hook, EMAHook) for hook in runner.hooks) == recipe["ema"]
    if "mean" in recipe:
        mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
        assert torch.equal(mean, std) and mean.unique().item() == float(recipe["mean"])
    if "crop" in recipe:
        batch = model.data_preprocessor(next(iter(loader)), True)
        assert list(batch["inputs"].shape[-2:]) == recipe["crop"]
    if "test_multiple" in recipe:
        dataset = runner.build_dataloader(runner.cfg.val_dataloader).dataset
        sizes = [t.size_divisor for t in transforms(dataset.pipeline) if type(t).__name__ == "ResizeToMultiple"]
        assert sizes == [recipe["test_multiple"]]


@pytest.mark.parametrize("config", ["det/retinanet_van_b0_1x_coco", "seg/semantic_fpn_van_b0", "cls/van_b0_in1k"])
@pytest.mark.parametrize("gpus", [1, 4, 8, 16])
def test_auto_scale_lr(config, gpus, demo_root, tmp_path):
    """The learning rate is the recipe's at 8 x 2, 8 x 4 and 8 x 128 images, and follows the batch elsewhere."""
    group = build(config, demo_root, tmp_path, gpus).optim_wrapper.optimizer.param_groups[0]
    assert group["initial_lr"] == pytest.approx(float(recipe_of(config)["optimizer"]["lr"]) * gpus / 8)


@pytest.mark.parametrize(
    "config",
    [config if config in QUICK else pytest.param(config, marks=pytest.mark.slow) for config in list_configs()],
)
def test_demo_trains(config, demo_root, run_tool):
    """Every config trains through the tool; B4, B5 and B6 with a block a stage."""
    size = config.split("van_")[1][:2]
    options = []
    if size in ("b4", "b5", "b6"):
        values = {"_delete_": True} | {key: str(value).replace(" ", "") for key, value in shallow(size).items()}
        options = ["--cfg-options", *(f"model.backbone.arch.{key}={value}" for key, value in values.items())]
    done = run_tool("train", config, "--demo", "--demo-iters", 2, "--demo-root", demo_root, "--no-validate", *options)
    assert done.returncode == 0, done.stdout
    assert "iter_2.pth" in done.stdout or "2 iterations" in done.stdout


def test_names():
    names = list_configs()
    assert "seg/upernet_van_b2" in names and "cls/ablation/van_b0_k7_in1k" in names
    assert not any("_base_" in name for name in names)
    assert list_configs("pose/*") == [
        "pose/simplebaseline_van_b2_coco_256x192",
        "pose/simplebaseline_van_b2_coco_384x288",
    ]
    assert get_config("seg/upernet_van_b2").model.backbone.arch == "b2"
    with pytest.raises(FileNotFoundError, match="seg/upernet_van_b2"):
        find_config("upernet_van_b22")


def test_upstream_names():
    name = "mmdet::retinanet/retinanet_r50_fpn_1x_coco"
    assert find_config(name) == find_config(f"{name}.py")
    assert get_config(name).model.type == "RetinaNet"
    with pytest.raises(FileNotFoundError, match="mmseg::upernet/upernet_r"):
        find_config("mmseg::upernet/upernet_r51_4xb2-40k_cityscapes-512x1024")
    with pytest.raises(FileNotFoundError, match="package mmtrack is not installed"):
        find_config("mmtrack::sort/deepsort")


def test_multi_scale_test_is_of_the_test_size():
    """The published multi-scale test scales 2048 x 512, not the image as it lies on disk."""
    resizes = get_config("seg/upernet_van_b2").tta_pipeline[1].transforms[0]
    assert [tuple(resize.scale) for resize in resizes][:3] == [(1024, 256), (1536, 384), (2048, 512)]
