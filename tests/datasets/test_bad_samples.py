"""Bad samples are left out of training up to a limit, end a validation, and are found beforehand."""

import json
import shutil

import pytest
from PIL import Image

from tests.tools.test_train_test import refused

SEG, DET, POSE, CLS = (
    "seg/semantic_fpn_van_b0",
    "det/retinanet_van_b0_1x_coco",
    "pose/simplebaseline_van_b2_coco_256x192",
    "cls/van_b0_in1k",
)
ADE = "ade/ADEChallengeData2016"


@pytest.fixture
def root(demo_root, tmp_path):
    """A copy of the demo's data, to be damaged."""
    for name in ("ade", "coco", "imagenet"):
        shutil.copytree(demo_root / name, tmp_path / "data" / name)
    return tmp_path / "data"


def cut(file) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("workers", [0, 2])
def test_left_out_and_logged(workers, root, fork_tool, tmp_path):
    """In forks, because workers of a data loader that outlives its run in one process are waited for."""
    images = sorted((root / ADE / "images/training").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:100])
    images[1].with_suffix(".none").write_bytes(b"")  # no image, not seen
    (root / ADE / "annotations/training" / f"{images[2].stem}.png").unlink()
    train = (
        "train",
        SEG,
        "--demo",
        "--demo-root",
        root,
        "--demo-iters",
        6,
        "--work-dir",
        tmp_path / "run",
        "--no-validate",
    )
    options = ("--cfg-options", "train_dataloader.batch_size=2", f"train_dataloader.num_workers={workers}")
    refused(
        fork_tool(*train, *options)[0].wait(), "1 samples of the data set can't be used, and 0 may be", "--max-bad-data"
    )
    done = fork_tool(*train, "--max-bad-data", 0.34, *options)[0].wait()
    assert done.returncode == 0, done.stdout
    assert "left out, 2 of at most 2: " in done.stdout
    logs = sorted((tmp_path / "run").glob("*/bad_data.jsonl"))
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    assert {line["file"] for line in lines} == {str(images[0]), str(images[2])}
    assert all(line["error"] for line in lines)


def test_validation_ends_with_the_name(root, run_tool, tmp_path):
    """Without the image the figure would be another one. The checkpoint is there."""
    image = sorted((root / "coco/val2017").iterdir())[1]
    image.write_bytes(b"nothing")
    train = ("train", DET, "--demo", "--demo-root", root, "--demo-iters", 1, "--work-dir", tmp_path / "run")
    done = run_tool(*train, "--max-bad-data", 1, "--cfg-options", "train_dataloader.batch_size=2")
    refused(done, "1 samples of the data set can't be used:", image.name)
    assert (tmp_path / "run/iter_1.pth").exists()


def test_check_finds_what_is_wrong(root, run_tool, tmp_path):
    """A file cut by its last bytes, which OpenCV reads as if nothing was; one that is missing; wrong annotations."""
    images = sorted((root / ADE / "images/training").iterdir())
    maps = root / ADE / "annotations/training"
    cut(images[0])
    (maps / f"{images[1].stem}.png").unlink()
    Image.new("L", (30, 20)).save(maps / f"{images[2].stem}.png")
    label = Image.open(maps / f"{images[3].stem}.png")
    label.paste(200, (0, 0, 5, 5))
    label.save(maps / f"{images[3].stem}.png")
    assert found(run_tool, SEG, root, tmp_path) == [
        (images[0].name, "the image can't be read: image file is truncated"),
        (images[1].name, "FileNotFoundError"),
        (images[2].name, "a map of 20 x 30 for an image of"),
        (images[3].name, "label 199: there are 150 classes, from 0"),
    ]

    names = {}
    for kind in ("instances", "person_keypoints"):
        file = root / f"coco/annotations/{kind}_train2017.json"
        notes = json.loads(file.read_text())
        notes["images"][0]["width"] += 1
        if kind == "instances":
            notes["annotations"] = [
                note for note in notes["annotations"] if note["image_id"] != notes["images"][1]["id"]
            ]
        for note in notes["annotations"]:
            if note["image_id"] == notes["images"][2]["id"] and "keypoints" in note:
                note["keypoints"] = [value + 1000 * (i % 3 == 0) for i, value in enumerate(note["keypoints"])]
        file.write_text(json.dumps(notes))
        names[kind] = [image["file_name"] for image in notes["images"]]
        (root / "coco/train2017" / names[kind][3]).unlink()
    boxed, persons = names.values()
    lines = found(run_tool, DET, root, tmp_path)
    assert (boxed[3], "the file is missing") in lines
    assert [name for name, problem in lines if problem.startswith("the annotation says")] == [boxed[0]]
    lines = found(run_tool, POSE, root, tmp_path)
    assert {(persons[2], "a key point beyond the image of"), (persons[3], "the file is missing")} <= set(lines)

    image = next((root / "imagenet/train").rglob("*.JPEG"))
    image.write_bytes(b"")
    assert found(run_tool, CLS, root, tmp_path) == [(image.name, "the image can't be read: cannot identify image file")]


def found(run_tool, config, root, tmp_path) -> list[tuple[str, str]]:
    """The problems of the training set, by file name and the words that are known beforehand."""
    out = tmp_path / "problems.json"
    done = run_tool(
        "misc/check_dataset", config, "--demo", "--demo-root", root, "--splits", "train", "--workers", 1, "--out", out
    )
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    known = (
        "the image can't be read: image file is truncated", "the image can't be read: cannot identify image file",
        "FileNotFoundError", "a map of 20 x 30 for an image of", "a key point beyond the image of",
    )  # fmt: skip
    lines = [(line["file"].split("/")[-1], line["problem"]) for line in json.loads(out.read_text())]
    return sorted({(name, next((k for k in known if problem.startswith(k)), problem)) for name, problem in lines})


def test_check_of_good_data(demo_root, run_tool):
    done = run_tool("misc/check_dataset", SEG, "--demo", "--demo-root", demo_root, "--workers", 0)
    assert done.returncode == 0 and "0 problems" in done.stdout, done.stdout
