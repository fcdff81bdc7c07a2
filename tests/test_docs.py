"""The examples of the documentation run, and the model index is valid."""

import re

import cv2
import numpy as np
import pytest
from modelindex import load as load_model_index

from tests.conftest import ROOT
from van_mm import get_config, swap_backbone
from van_mm.apis.configs import CONFIG_DIR, list_configs

EXAMPLES = dict(
    re.findall(r"```python\n# configs/my/(\w+)\.py\n(.*?)```", (ROOT / "docs/custom_experiments.md").read_text(), re.S)
)


@pytest.fixture
def my_configs(tmp_path):
    """A folder ``configs/my`` with the examples, next to the configs of the suite."""
    folder = tmp_path / "configs" / "my"
    folder.mkdir(parents=True)
    for group in ("cls", "det", "seg"):
        (tmp_path / "configs" / group).symlink_to(CONFIG_DIR / group)
    for name, text in EXAMPLES.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_all_examples_are_found():
    assert len(EXAMPLES) == (ROOT / "docs/custom_experiments.md").read_text().count("```python")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "fields" not in name])
def test_example_trains(name, my_configs, demo_root, run_tool):
    done = run_tool("train", my_configs / f"{name}.py", "--demo", "--demo-iters", 2, "--demo-root", demo_root)
    assert done.returncode == 0 and "Iter(val)" in done.stdout, done.stdout


def test_documented_swap_output():
    text = (ROOT / "docs/custom_experiments.md").read_text()
    name, shown = re.search(r"train.py (mmdet::\S+) --backbone b2\n```.*?```\n(.*?)```", text, re.S).groups()
    changes = swap_backbone(get_config(name), "b2")
    for line, change in zip(shown.splitlines(), changes, strict=True):
        assert change.startswith(line.removesuffix("..."))


def test_custom_dataset_trains(my_configs, tmp_path, run_tool):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data/fields" / kind / split).mkdir(parents=True)
        for i in range(4):
            label = rng.integers(0, 3, (8, 8)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
            cv2.imwrite(str(tmp_path / f"data/fields/labels/{split}/{i}.png"), label)
            cv2.imwrite(str(tmp_path / f"data/fields/images/{split}/{i}.jpg"), np.stack([label * 100] * 3, -1))
    options = ["model.backbone.init_cfg=None", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    options += [
        f"{split}_dataloader.{key}"
        for split in ("train", "val")
        for key in ("num_workers=0", "persistent_workers=False")
    ]
    options += [
        "train_dataloader.dataset.pipeline.2.scale=(128,128)",
        "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
    ]
    options += ["model.data_preprocessor.size=(64,64)", "val_dataloader.dataset.pipeline.1.scale=(128,128)"]
    done = run_tool("train", my_configs / "upernet_van_b0_fields.py", "--cfg-options", *options)
    assert done.returncode == 0 and "weed" in done.stdout and "mIoU" in done.stdout, done.stdout


def test_model_index():
    index = load_model_index(str(ROOT / "model-index.yml"))
    index.check()
    index.build_models_with_collections()
    models = {model.config: model for model in index.models}
    assert sorted(models) == [f"configs/{name}.py" for name in list_configs()]
    assert models["configs/seg/upernet_van_b2.py"].results[0].metrics == {"mIoU (paper)": 50.1}
    assert models["configs/cls/van_b0_in1k.py"].weights.startswith("https://")
