"""--epochs and --iters rescale everything that depends on the length of a run."""

import pytest

from van_mm import get_config
from van_mm.utils.run_length import set_run_length


def test_epochs_of_a_classifier():
    cfg = get_config("cls/van_b0_in1k")
    changes = set_run_length(cfg, 3, by_epoch=True, steps_per_epoch=90)
    warmup, cosine = cfg.param_scheduler
    assert (warmup.begin, warmup.end, cosine.begin, cosine.end) == (0, pytest.approx(0.3), pytest.approx(0.3), 3)
    assert warmup.convert_to_iter_based and cosine.convert_to_iter_based
    (ema,) = cfg.custom_hooks
    assert ema.momentum == pytest.approx(1 / 27, rel=1e-2) and any("EMA" in line for line in changes)
    assert cfg.train_cfg == dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=1)


def test_run_without_room_for_a_warmup():
    cfg = get_config("cls/van_b0_in1k")
    set_run_length(cfg, 1, by_epoch=True, steps_per_epoch=4)
    (cosine,) = cfg.param_scheduler
    assert (cosine.begin, cosine.end) == (0, 1)


def test_ema_of_unknown_data_keeps_its_share():
    cfg = get_config("cls/van_b0_in1k")
    set_run_length(cfg, 30, by_epoch=True)
    assert cfg.custom_hooks[0].momentum == pytest.approx(2e-3)


def test_epochs_of_a_detector():
    cfg = get_config("det/retinanet_van_b0_1x_coco")
    set_run_length(cfg, 24, by_epoch=True, steps_per_epoch=25)
    warmup, steps = cfg.param_scheduler
    assert warmup.end == pytest.approx(2.4) and steps.milestones == [16, 22] and steps.end == 24
    assert cfg.default_hooks.checkpoint.interval == 2 and cfg.train_cfg.val_interval == 2


def test_epochs_of_an_iteration_based_config():
    cfg = get_config("seg/upernet_van_b0")
    set_run_length(cfg, 20, by_epoch=True)
    assert cfg.train_dataloader.sampler.type == "DefaultSampler"  # an infinite one never ends an epoch
    assert cfg.train_cfg == dict(type="EpochBasedTrainLoop", max_epochs=20, val_interval=2)
    assert cfg.default_hooks.checkpoint.by_epoch and cfg.log_processor.by_epoch
    warmup, poly = cfg.param_scheduler
    assert warmup.end == poly.begin == 2 and poly.end == 20


def test_iters_of_an_epoch_based_config():
    cfg = get_config("cls/van_b0_in1k")
    set_run_length(cfg, 500, by_epoch=False)
    assert cfg.train_cfg.max_iters == 500 and cfg.custom_hooks[0].momentum == pytest.approx(0.02)
    assert [s.end for s in cfg.param_scheduler] == [50, 500] and not cfg.default_hooks.checkpoint.by_epoch


def test_hooks_and_last_stages_move_with_the_run():
    cfg = get_config("mmdet::yolox/yolox_s_8xb8-300e_coco")
    set_run_length(cfg, 60, by_epoch=True)
    warmup, cosine, constant = cfg.param_scheduler
    assert warmup.end == 5 and cosine.end == constant.begin == pytest.approx(5 + 280 * 55 / 295) and constant.end == 60
    assert cosine.T_max == pytest.approx(285 * 55 / 295)
    assert next(hook for hook in cfg.custom_hooks if "ModeSwitch" in hook.type).num_last_epochs == 3


@pytest.mark.parametrize("length", [0, -3])
def test_wrong_length(length):
    with pytest.raises(ValueError, match="at least 1"):
        set_run_length(get_config("cls/van_b0_in1k"), length, by_epoch=True)
