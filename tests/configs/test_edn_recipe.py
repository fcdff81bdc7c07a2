"""Settings of the EDN experiments that the general test of recipes does not cover."""

import pytest

from van_mm import get_config
from van_mm.analysis.schedule import count_steps_per_epoch, trace_schedule
from van_mm.paper.tables import load_paper

RECIPE = load_paper()["recipes"]["saliency"]
CONFIGS = ["seg/edn_van_b1_duts", "seg/edn_van_b2_duts"]


@pytest.mark.parametrize("config", CONFIGS)
def test_edn_learning_rate_is_constant_after_the_warmup(config):
    """The step mode of EDN's release has a step every 100 epochs, and training has 30."""
    cfg = get_config(config)
    trace = trace_schedule(cfg, count_steps_per_epoch(cfg), points=20000)
    rates = dict(zip(trace["step"], trace["lr"], strict=True))
    assert rates[0] == pytest.approx(0.01 * 5e-5) and rates[100] < 5e-5
    assert all(rate == pytest.approx(5e-5) for step, rate in rates.items() if step >= 199)


@pytest.mark.parametrize("config", CONFIGS)
def test_edn_trains_on_margin_crops(config):
    cfg = get_config(config)
    names = [transform.type for transform in cfg.train_dataloader.dataset.pipeline]
    assert names[2:5] == ["Resize", "van_mm.RandomMarginCrop", "RandomFlip"]
    resize, crop = cfg.train_dataloader.dataset.pipeline[2:4]
    assert resize.scale == (384, 384) and crop.prob == 0.5 and int(crop.max_margin * 384) == 12
    assert list(cfg.optim_wrapper.optimizer.betas) == [float(beta) for beta in RECIPE["optimizer"]["betas"]]


def test_edn_recipe_has_a_source_for_every_value():
    values = set()
    for key in RECIPE.keys() - {"configs", "note", "sources"}:
        if key in ("optimizer", "schedule", "augmentation"):
            values |= {f"{key}.{name}" for name in RECIPE[key]}
        else:
            values.add(key)
    assert set(RECIPE["sources"]) == values
