"""Bad samples are skipped in training up to a limit, stop a validation, and are listed by check_dataset."""

import json
import shutil
from multiprocessing import get_context
from pathlib import Path

import pytest
from mmengine.dataset import BaseDataset, RepeatDataset
from PIL import Image

from tests.tools.test_train_test import refused
from van_mm.datasets import bad_samples
from van_mm.datasets.bad_samples import skip_bad_samples
from van_mm.utils.errors import UserError

SEG, DET, POSE, CLS = (
    "seg/semantic_fpn_van_b0",
    "det/retinanet_van_b0_1x_coco",
    "pose/simplebaseline_van_b2_coco_256x192",
    "cls/van_b0_in1k",
)
ADE = "ade/ADEChallengeData2016"


@pytest.fixture
def root(demo_root, tmp_path):
    """A copy of the demo data that a test may damage."""
    for name in ("ade", "coco", "imagenet"):
        shutil.copytree(demo_root / name, tmp_path / "data" / name)
    return tmp_path / "data"


def truncate(file) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("workers", [0, 2])
def test_training_skips_and_logs_bad_samples(workers, root, fork_tool, tmp_path):
    """Training stops above --max-bad-data, and else skips and logs bad samples.

    The runs are forks, because in one process a data loader can outlive its run and keep its workers alive.
    """
    images = sorted((root / ADE / "images/training").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:100])
    images[1].with_suffix(".none").write_bytes(b"")  # not an image, so the dataset ignores it
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
        fork_tool(*train, *options)[0].wait(), "2 samples of the data set can't be used, and 1 may be", "--max-bad-data"
    )
    done = fork_tool(*train, "--max-bad-data", 0.34, *options)[0].wait()
    assert done.returncode == 0, done.stdout
    assert "left out, 2 of at most 2: " in done.stdout
    logs = sorted((tmp_path / "run").glob("*/bad_data.jsonl"))
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    assert {line["file"] for line in lines} == {str(images[0]), str(images[2])}
    assert all(line["error"] for line in lines)


class Samples(BaseDataset):
    """A data set in which only the last sample can be read."""

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=f"{i}.jpg", last=i == self.number - 1) for i in range(self.number)]

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(pipeline=[self.read], serialize_data=False)

    def read(self, data: dict) -> dict:
        if not data["last"]:
            raise ValueError("not an image")
        return data


def make_dataset(folder: Path, number: int, fraction: float | None) -> Samples:
    dataset = Samples(number)
    skip_bad_samples(dataset, folder, fraction)
    return dataset


def try_samples(dataset: Samples) -> None:
    for index in range(dataset.number):
        dataset.prepare_data(index)


def read_lines(folder: Path) -> list[str]:
    return [line for file in sorted(folder.glob("bad_data*.jsonl")) for line in file.read_text().splitlines()]


def test_many_bad_samples(tmp_path, monkeypatch):
    """Each bad sample is written once and read at most once, in all epochs."""
    parsed, loads = [], json.loads
    monkeypatch.setattr(bad_samples.json, "loads", lambda line: parsed.append(line) or loads(line))
    dataset = make_dataset(tmp_path, 2001, 1.0)
    for _ in range(3):
        try_samples(dataset)
    assert len(set(read_lines(tmp_path))) == len(read_lines(tmp_path)) == 2000
    assert len(parsed) <= 2000
    resumed = make_dataset(tmp_path, 2001, 1.0)  # as a new worker
    try_samples(resumed)
    assert len(read_lines(tmp_path)) == 2000 and len(resumed.pipeline.log.samples) == 2000


def test_several_writers(tmp_path, monkeypatch):
    """Two ranks with two workers each count the samples of all, and write valid lines."""

    context = get_context("fork")
    barrier = context.Barrier(4)

    def work(rank: int) -> None:
        monkeypatch.setattr(bad_samples, "get_rank", lambda: rank)
        dataset = make_dataset(tmp_path, 301, 1.0)
        barrier.wait()
        for index in range(301)[:: -1 if rank else 1]:
            dataset.prepare_data(index)

    workers = [context.Process(target=work, args=(rank,)) for rank in (0, 0, 1, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad_data.jsonl", "bad_data_rank1.jsonl"]
    assert {json.loads(line)["file"] for line in read_lines(tmp_path)} == {f"{i}.jpg" for i in range(300)}
    monkeypatch.setattr(bad_samples, "get_rank", lambda: 2)
    dataset = make_dataset(tmp_path, 302, 300 / 302)
    with pytest.raises(UserError, match="301 samples of the data set can't be used, and 300 may be"):
        try_samples(dataset)


def test_torn_lines_are_no_error(tmp_path):
    """A process that was killed leaves the beginning of a line."""
    line = json.dumps(dict(file="0.jpg", error="not an image", transform="read"))
    log = tmp_path / "bad_data.jsonl"
    log.write_text(f"{line}\n{line[:20]}\n[1]\n{{}}\n\n{line[:30]}")
    dataset = make_dataset(tmp_path, 4, 1.0)
    try_samples(dataset)
    assert set(dataset.pipeline.log.samples) == {"0.jpg", "1.jpg", "2.jpg"}


@pytest.mark.parametrize(("number", "fraction", "limit"), [(6, 0.001, 1), (5000, 0.001, 5), (6, 0.0, 0), (6, 0.5, 3)])
def test_limit(number, fraction, limit, tmp_path):
    """Any share above 0 allows a bad sample. Repeated samples do not count."""
    dataset = RepeatDataset(Samples(number), times=10)
    skip_bad_samples(dataset, tmp_path, fraction)
    assert dataset.dataset.pipeline.limit == limit


def test_message_of_a_validation_lists_its_own_samples(tmp_path):
    try_samples(make_dataset(tmp_path, 4, 1.0))
    with pytest.raises(
        UserError, match="1 samples of the data set can't be used:\n  0.jpg: ValueError: not an image\n"
    ):
        try_samples(make_dataset(tmp_path, 4, None))


def test_validation_stops_at_a_bad_image(root, run_tool, tmp_path):
    """Validation stops, because metrics without the image would not be comparable. The checkpoint is saved before."""
    image = sorted((root / "coco/val2017").iterdir())[1]
    image.write_bytes(b"nothing")
    train = ("train", DET, "--demo", "--demo-root", root, "--demo-iters", 1, "--work-dir", tmp_path / "run")
    done = run_tool(*train, "--max-bad-data", 1, "--cfg-options", "train_dataloader.batch_size=2")
    refused(done, "1 samples of the data set can't be used:", image.name)
    assert (tmp_path / "run/iter_1.pth").exists()


def test_check_lists_all_problems(root, run_tool, tmp_path):
    """The check lists truncated images, which OpenCV reads without an error, missing files and wrong annotations."""
    images = sorted((root / ADE / "images/training").iterdir())
    maps = root / ADE / "annotations/training"
    truncate(images[0])
    (maps / f"{images[1].stem}.png").unlink()
    Image.new("L", (30, 20)).save(maps / f"{images[2].stem}.png")
    label = Image.open(maps / f"{images[3].stem}.png")
    label.paste(200, (0, 0, 5, 5))
    label.save(maps / f"{images[3].stem}.png")
    problems = find_problems(run_tool, SEG, root, tmp_path)
    assert "label maps of the train data set do not exist" in problems[0][1]  # of the data set
    assert "have the labels 200" in problems[1][1]
    assert problems[2:] == [
        (images[0].name, "the image can't be read: image file is truncated"),
        (images[1].name, "FileNotFoundError"),
        (images[2].name, "a map of 20 x 30 for an image of"),
        (images[3].name, "label 199: there are 150 classes, from 0"),
    ]

    names = {}
    for kind in ("instances", "person_keypoints"):
        file = root / f"coco/annotations/{kind}_train2017.json"
        content = json.loads(file.read_text())
        content["images"][0]["width"] += 1
        if kind == "instances":
            image_id = content["images"][1]["id"]
            content["annotations"] = [box for box in content["annotations"] if box["image_id"] != image_id]
        for annotation in content["annotations"]:
            if annotation["image_id"] == content["images"][2]["id"] and "keypoints" in annotation:
                points = annotation["keypoints"]
                annotation["keypoints"] = [value + 1000 * (i % 3 == 0) for i, value in enumerate(points)]
        file.write_text(json.dumps(content))
        names[kind] = [image["file_name"] for image in content["images"]]
        (root / "coco/train2017" / names[kind][3]).unlink()
    instances, people = names.values()
    problems = find_problems(run_tool, DET, root, tmp_path)
    assert (instances[3], "the file is missing") in problems
    assert [name for name, problem in problems if problem.startswith("the annotation says")] == [instances[0]]
    problems = find_problems(run_tool, POSE, root, tmp_path)
    assert {(people[2], "a keypoint beyond the image of"), (people[3], "the file is missing")} <= set(problems)

    image = next((root / "imagenet/train").rglob("*.JPEG"))
    image.write_bytes(b"")
    assert find_problems(run_tool, CLS, root, tmp_path) == [
        (image.name, "the image can't be read: cannot identify image file")
    ]


def find_problems(run_tool, config, root, tmp_path) -> list[tuple[str, str]]:
    """Return (file name, problem) for each bad sample of the training set. Some problems are cut to a fixed prefix."""
    out = tmp_path / "problems.json"
    done = run_tool(
        "misc/check_dataset", config, "--demo", "--demo-root", root, "--splits", "train", "--workers", 1, "--out", out
    )
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    prefixes = (
        "the image can't be read: image file is truncated", "the image can't be read: cannot identify image file",
        "FileNotFoundError", "a map of 20 x 30 for an image of", "a keypoint beyond the image of",
    )  # fmt: skip
    lines = [(line["file"].split("/")[-1], line["problem"]) for line in json.loads(out.read_text())]
    return sorted({(name, next((p for p in prefixes if problem.startswith(p)), problem)) for name, problem in lines})


def test_check_finds_no_problem_in_good_data(demo_root, run_tool):
    done = run_tool("misc/check_dataset", SEG, "--demo", "--demo-root", demo_root, "--workers", 0)
    assert done.returncode == 0 and "0 problems" in done.stdout, done.stdout
