"""One command trains on a folder of one's own data, and every tool accepts what the training dumped."""

from pathlib import Path

import pytest

from tests.datasets.folders.data_folders import write_class_folders, write_image, write_map, write_voc
from van_mm.utils.errors import WeightsError


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def read(source):
        raise WeightsError(f"{source} can't be downloaded")

    monkeypatch.setattr("van_mm.apis.own_data.read_checkpoint", read)


def write_fields(folder: Path) -> Path:
    for i in range(5):
        write_image(folder / f"images/{i}.jpg")
        write_map(folder / f"masks/{i}.png", [0, 1, 11])
    return folder


@pytest.mark.parametrize(
    ("config", "write", "flags", "metric"),
    [
        ("det/retinanet_van_b0_1x_coco", write_voc, (), "coco/bbox_mAP"),
        ("seg/semantic_fpn_van_b0", write_fields, ("--ignore-index", 11), "mIoU"),
        ("cls/van_b0_in1k", write_class_folders, (), "accuracy/top1"),
    ],
)
def test_train_test_predict_and_export(config, write, flags, metric, run_tool, tmp_path):
    write(tmp_path / "cells")
    done = run_tool("train", config, "--data", "cells", *flags, "--epochs", 1, "--image-size", 64, "--seed", 1)
    assert done.returncode == 0, done.stdout
    for words in ("classes, counted in", "weights: random", "length: 1 epochs", "image size"):
        assert words in done.stdout, words
    work_dir = tmp_path / "work_dirs" / f"{Path(config).name}_cells"
    checkpoint, dumped = work_dir / "epoch_1.pth", work_dir / f"{Path(config).name}.py"
    assert list(work_dir.glob("best_*.pth")) and metric.rpartition("/")[2] in done.stdout
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == sorted(
        {"JPEGImages", "Annotations", "ImageSets"} if write is write_voc else
        {"images", "masks"} if write is write_fields else {"cat", "dog"}
    )  # fmt: skip

    by_data = run_tool("test", config, checkpoint, "--data", "cells", *flags, "--image-size", 64, "--out", "a.json")
    assert by_data.returncode == 0, by_data.stdout
    done = run_tool("test", dumped, checkpoint, "--out", "b.json")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    image = next(path for path in (tmp_path / "cells").rglob("*.jpg"))
    for tool, args in (
        ("infer", (checkpoint, image, "--out-dir", "out")),
        ("misc/check_dataset", ("--workers", 0)),
        ("visualization/browse_dataset", ("--num", 2, "--out", "grid.png")),
    ):
        done = run_tool(tool, dumped, *args)
        assert done.returncode == 0, (tool, done.stdout)


def test_dump_shows_what_the_flags_set(run_tool, tmp_path):
    write_voc(tmp_path / "cells")
    done = run_tool(
        "train", "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco", "--backbone", "b0", "--data", "cells", "--iters", 30,
        "--early-stop", "--seed", 7, "--dump", "mine.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    text = (tmp_path / "mine.py").read_text()
    for words in ("EarlyStoppingHook", "seed=7", "max_iters=30", "num_classes=2", "van_mm.VAN", "save_best="):
        assert words in text, words


def test_demo_and_data_exclude_each_other(run_tool, tmp_path):
    done = run_tool("train", "seg/upernet_van_b0", "--demo", "--data", "cells")
    assert done.returncode and "--demo and --data both choose the data" in done.stdout
    done = run_tool("train", "seg/upernet_van_b0", "--data", "nowhere")
    assert done.returncode and "nowhere: no such folder" in done.stdout and not (tmp_path / "work_dirs").exists()
