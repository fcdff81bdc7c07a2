"""tools/misc/check_dataset.py on data sets inside wrappers, and how it tells errors from warnings."""

import json

import pytest

from tests.datasets.checks.coco_data import make_content, make_dataset, write

MODEL = "_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'\ndefault_scope = 'mmdet'\n"


def write_config(root, dataset: dict):
    """Write a config that trains on a data set and evaluates on nothing."""
    config = root / "config.py"
    loaders = f"train_dataloader = dict(batch_size=1, num_workers=0, dataset={dataset!r})\n"
    nothing = "".join(f"{split}_dataloader = {split}_cfg = {split}_evaluator = None\n" for split in ("val", "test"))
    heads = "model = dict(bbox_head=dict(num_classes=3))\n"
    config.write_text(f"{MODEL}{loaders}{nothing}{heads}train_cfg = dict(by_epoch=True, max_epochs=1)\n")
    return config


@pytest.mark.parametrize("wrapper", ["mixed", "repeated", "both", "concatenated", "balanced"])
def test_wrappers(tmp_path, run_tool, wrapper):
    content = make_content()
    inner = make_dataset(write(tmp_path, content), filter_cfg=dict(filter_empty_gt=True))
    flip = [dict(type="Mosaic", img_scale=(32, 32)), dict(type="RandomFlip", prob=0.5)]
    mixed = dict(type="MultiImageMixDataset", dataset=inner, pipeline=flip)
    dataset = dict(
        mixed=mixed,
        repeated=dict(type="RepeatDataset", times=2, dataset=inner),
        both=dict(type="RepeatDataset", times=2, dataset=mixed),
        concatenated=dict(type="ConcatDataset", datasets=[inner, inner]),
        balanced=dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=inner),
    )[wrapper]
    config = write_config(tmp_path, dataset)
    done = run_tool("misc/check_dataset", config, "--splits", "train", "--workers", 0)
    assert done.returncode == 0, done.stdout
    assert "0 problems" in done.stdout
    assert "6 samples of CocoDataset checked" in done.stdout
    content["images"][2]["file_name"] = "broken.jpg"
    content["annotations"][0]["category_id"] = 99
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "images" / "broken.jpg").write_bytes(b"broken")
    done = run_tool("misc/check_dataset", config, "--splits", "train", "--workers", 0)
    assert done.returncode == 1
    assert "broken.jpg: the image can't be read" in done.stdout
    assert "1 of 18 annotations" in done.stdout


@pytest.mark.parametrize("share", [1, 18])
def test_warnings_and_errors(tmp_path, run_tool, share):
    """With warnings the exit code is 0, because training starts. The JSON file tells which is which."""
    content = make_content()
    for annotation in content["annotations"][:share]:
        annotation["area"] = 0
    dataset = make_dataset(write(tmp_path, content), filter_cfg=None)
    out = tmp_path / "problems.json"
    done = run_tool(
        "misc/check_dataset", write_config(tmp_path, dataset), "--splits", "train", "--workers", 0, "--out", out
    )
    (problem,) = json.loads(out.read_text())
    severity = "warning" if share == 1 else "error"
    assert problem["severity"] == severity and f"{share} of 18 annotations" in problem["problem"]
    assert f"{severity}: {share} of 18 annotations" in done.stdout
    assert done.returncode == (share == 18), done.stdout


def test_pipelines_are_those_of_training(tmp_path, run_tool):
    steps = [dict(type="LoadAnnotations", with_bbox=True), dict(type="Resize", scale="large")]
    dataset = make_dataset(write(tmp_path, make_content()), steps=steps)
    done = run_tool("misc/check_dataset", write_config(tmp_path, dataset), "--splits", "train", "--workers", 0)
    assert done.returncode == 1 and "the transform Resize of the train pipeline" in done.stdout, done.stdout
