"""A shortened run whose schedule, warm-up or weight averaging is still that of the long one gets a warning."""

import pytest

from van_mm import get_config
from van_mm.datasets.checks import run_length
from van_mm.utils.config_walk import get_type_name, iter_dicts
from van_mm.utils.run_length import set_run_length

SAMPLES = {"ImageNet": 1281167, "ImageNet21k": 14197122, "CUB": 5994, "CocoDataset": 117266,
           "CocoPanopticDataset": 118287, "ADE20KDataset": 20210, "SaliencyDataset": 10553}  # fmt: skip
PUBLISHED = ["cls/van_b0_in1k", "cls/van_b4_in22k_cub", "det/retinanet_van_b0_1x_coco", "seg/upernet_van_b2",
             "det/mask2former_van_b2_50e_coco_panoptic", "seg/edn_van_b1_duts"]  # fmt: skip


def find_messages(cfg, number: int) -> list[str]:
    problems = list(run_length.find_problems(cfg, dict(train=range(number))))
    assert not any(problem.is_error for problem in problems)
    return [problem.message for problem in problems]


@pytest.mark.parametrize(
    ("config", "loop", "number", "words"),
    [
        ("cls/van_b0_in1k", dict(max_epochs=3), 1437, ["warms up until epoch 5", "ends at epoch 300", "EMAHook"]),
        ("det/retinanet_van_b0_1x_coco", dict(max_epochs=3), 400, ["warms up until iteration 500", "ends at epoch 12"]),
        ("seg/upernet_van_b0", dict(max_iters=1000), 60, ["warms up until iteration 1500", "ends at iteration 160000"]),
        ("pose/simplebaseline_van_b2_coco_256x192", dict(max_epochs=210), 99, ["warms up until iteration 500"]),
        ("mmdet::yolox/yolox_s_8xb8-300e_coco", dict(max_epochs=3), 400, ["until epoch 5", "epoch 285", "epoch 300"]),
        ("cls/van_b0_in1k", dict(max_epochs=300), 40000, []),
    ],
)
def test_shortened_run(config, loop, number, words):
    cfg = get_config(config)
    cfg.train_cfg.update(loop)
    messages = find_messages(cfg, number)
    assert len(messages) == len(words), messages
    assert all(word in message and "--epochs" in message for word, message in zip(words, messages, strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_fit(name):
    cfg = get_config(name)
    kind = next(get_type_name(node) for node in iter_dicts(cfg.train_dataloader.dataset) if "pipeline" in node)
    cfg.train_dataloader.batch_size = cfg.auto_scale_lr.base_batch_size
    assert find_messages(cfg, SAMPLES[kind]) == []


@pytest.mark.parametrize(
    ("config", "length", "by_epoch"),
    [
        ("cls/van_b0_in1k", 3, True),
        ("cls/van_b0_in1k", 50, False),
        ("det/retinanet_van_b0_1x_coco", 3, True),
        ("seg/upernet_van_b0", 5, True),
        ("seg/edn_van_b1_duts", 100, False),
        ("mmdet::yolox/yolox_s_8xb8-300e_coco", 20, True),
    ],
)
def test_rescaled_run_fits(config, length, by_epoch):
    cfg = get_config(config)
    set_run_length(cfg, length, by_epoch, steps_per_epoch=100)
    assert find_messages(cfg, 100 * cfg.train_dataloader.batch_size) == []
