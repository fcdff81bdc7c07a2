"""Settings that do not fit together are found before the training starts."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from van_mm import get_config
from van_mm.datasets.checks import pipelines, settings

UPERNET, FPN = "seg/upernet_van_b0", "seg/semantic_fpn_van_b0"


def find_messages(cfg, number: int) -> list[str]:
    return [problem.message for problem in settings.find_problems(cfg, dict(train=range(number)))]


@pytest.mark.parametrize(
    ("config", "number", "loader", "words"),
    [
        (UPERNET, 7, dict(batch_size=2), "7 images in batches of 2"),
        (UPERNET, 9, dict(batch_size=4), "drop_last=True"),
        (UPERNET, 8, dict(batch_size=1), "batch_size is 1"),
        (UPERNET, 8, dict(batch_size=2), None),
        (UPERNET, 7, dict(batch_size=2, drop_last=True), None),
        (UPERNET, 7, dict(batch_size=2, sampler=dict(type="InfiniteSampler")), None),
        (FPN, 7, dict(batch_size=2), None),  # has no pooled features
        ("cls/van_b0_in1k", 7, dict(batch_size=2), None),
        ("mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024", 7, dict(batch_size=2), "decode_head.psp_modules"),
        ("mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024", 7, dict(batch_size=3), "image_pool"),
        ("mmseg::apcnet/apcnet_r50-d8_4xb2-40k_cityscapes-512x1024", 7, dict(batch_size=2), "pooled_redu_conv"),
        ("mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024", 7, dict(batch_size=2), "backbone.conv_avg"),
        ("mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024", 7, dict(batch_size=2), None),
    ],
)
def test_last_batch_of_one_image(config, number, loader, words):
    cfg = get_config(config)
    cfg.train_dataloader = dict(sampler=dict(type="DefaultSampler")) | loader
    messages = find_messages(cfg, number)
    assert len(messages) == bool(words) and all(words in message and "BatchNorm" in message for message in messages)


@pytest.mark.parametrize(
    ("schedule", "loop", "is_found"),
    [
        (dict(type="PolyLR", end=100, by_epoch=False), dict(max_iters=200), True),
        (dict(type="PolyLR", end=200, by_epoch=False), dict(max_iters=200), False),
        (dict(type="PolyLR", end=100, eta_min=1e-5, by_epoch=False), dict(max_iters=200), False),
        (dict(type="CosineAnnealingLR", T_max=10), dict(max_epochs=12), True),
        ([dict(type="LinearLR", end=2), dict(type="CosineAnnealingLR", T_max=10, begin=2)], dict(max_epochs=12), False),
        (dict(type="CosineAnnealingLR"), dict(max_epochs=12), False),
        (dict(type="MultiStepLR", milestones=[3]), dict(max_epochs=12), False),
        (None, dict(max_epochs=12), False),
    ],
)
def test_schedule_that_ends_early(schedule, loop, is_found):
    problems = list(settings.find_problems(Config(dict(param_scheduler=schedule, train_cfg=loop)), {}))
    assert len(problems) == is_found and not any(problem.is_error for problem in problems)
    assert all("learning rate of 0" in problem.message for problem in problems)


def make_dataset(tmp_path, steps):
    for i in range(4):
        path = tmp_path / "cat" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), i, np.uint8)).save(path)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return DATASETS.build(
            dict(
                type="CustomDataset",
                data_root=str(tmp_path),
                pipeline=[dict(type="LoadImageFromFile"), *steps, dict(type="PackInputs")],
            )
        )


@pytest.mark.parametrize(
    ("steps", "transform"),
    [
        ([dict(type="Resize", scale=32, interpolation="cubix")], "Resize"),
        ([dict(type="LoadImageFromFile", color_type="colour")], "LoadImageFromFile"),
        ([dict(type="Resize", scale=32), dict(type="RandomCrop", crop_size=16, padding_mode="edge")], None),
    ],
)
def test_wrong_transform_option(steps, transform, tmp_path):
    np.random.seed(3)
    dataset = make_dataset(tmp_path, steps)
    pipeline, state = dataset.pipeline, np.random.get_state()[1].copy()
    messages = [problem.message for problem in pipelines.find_problems(None, dataset, "train")]
    assert len(messages) == bool(transform) and all(transform in text and "options" in text for text in messages)
    assert dataset.pipeline is pipeline and (np.random.get_state()[1] == state).all()


def test_bad_files_are_no_config_error(tmp_path):
    """Files that cannot be read are left to the limit of bad samples."""
    dataset = make_dataset(tmp_path, [])
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:40])
    assert list(pipelines.find_problems(None, dataset, "train")) == []


@pytest.mark.parametrize("scope", ["mmpretrain", "mmdet", "mmseg", "mmpose"])
def test_tta_pipeline(scope):
    """The builder of mmengine's registry finds the transforms of the default scope, whichever it is."""
    cfg = Config(dict(default_scope=scope, tta_pipeline=[dict(type="LoadImageFromFil")]))
    with DefaultScope.overwrite_default_scope(scope):
        (problem,) = pipelines.find_tta_problems(cfg, {})
    assert "tta_pipeline does not build" in problem.message and not problem.is_error
