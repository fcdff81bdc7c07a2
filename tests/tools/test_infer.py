"""tools/infer.py works on every task and every kind of input file."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.tools.test_train_test import refused
from van_mm import get_config
from van_mm.apis.build import build_random_model
from van_mm.demo.demo_config import apply_demo

FILES = {
    "cls/van_b0_in1k": "imagenet/val/*.JPEG",
    "det/retinanet_van_b0_1x_coco": "coco/val2017/00000000000[1-3].jpg",
    "det/mask2former_van_b2_50e_coco_panoptic": "coco/val2017/00000000000[1-3].jpg",
    "seg/semantic_fpn_van_b0": "ade/ADEChallengeData2016/images/validation/*.jpg",
    "seg/edn_van_b1_duts": "saliency/DUTS-TE/DUTS-TE-Image/*.jpg",
    "pose/simplebaseline_van_b2_coco_256x192": "coco/val2017/00000050000[1-3].jpg",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a function that maps a config to a checkpoint with random weights."""
    folder, files = tmp_path_factory.mktemp("random"), {}

    def make(config):
        if config not in files:
            cfg = get_config(config)
            apply_demo(cfg)
            torch.manual_seed(0)
            files[config] = folder / f"{len(files)}.pth"
            torch.save(dict(state_dict=build_random_model(cfg).state_dict()), files[config])
        return files[config]

    return make


@pytest.mark.parametrize("config", FILES)
def test_every_task(config, checkpoint, run_tool, demo_root, tmp_path):
    options = ["--fold", "--batch-size", 2] if "b0" in config else ["--amp"] if "pose" in config else []
    done = run_tool(
        "infer", config, checkpoint(config), demo_root / FILES[config], "--demo", "--out-dir", tmp_path / "out",
        "--score-thr", 0, *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    inputs = sorted(demo_root.glob(FILES[config]))
    assert f"{len(inputs)} of {len(inputs)} done" in done.stdout
    for file in inputs:
        drawn, original = cv2.imread(str(tmp_path / f"out/{file.stem}.png")), cv2.imread(str(file))
        assert drawn.shape[0] >= original.shape[0] and drawn.shape[1] >= original.shape[1]
        record = json.loads((tmp_path / f"out/{file.stem}.json").read_text())
        assert record["file"] == str(file) and record["size"] == [original.shape[1], original.shape[0]]
        labels = tmp_path / f"out/{file.stem}_labels.png"
        assert labels.exists() == ("seg/" in config or "panoptic" in config)
        if labels.exists():
            labels = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
            assert labels.shape == original.shape[:2]
        check_record(config, record, labels, original.shape)


def check_record(config, record, labels, shape):
    """Check that a record has the fields of its task and that they agree with the label map."""
    if config.startswith("cls"):
        scores = [row["score"] for row in record["top"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True)
        assert all(isinstance(row["class"], str) and not row["class"].isdigit() for row in record["top"])
    elif "panoptic" in config:
        assert all((labels == segment["id"]).sum() == segment["area"] for segment in record["segments"])
    elif config.startswith("det"):
        assert record["instances"]
        for row in record["instances"]:
            assert len(row["bbox"]) == 4 and 0 <= row["score"] <= 1 and row["class"] != str(row["index"])
    elif "edn" in config:
        assert record["salient"] == pytest.approx((labels > 127).mean(), abs=0.02)
    elif config.startswith("seg"):
        assert sum(row["share"] for row in record["areas"]) == pytest.approx(1)
        for row in record["areas"]:
            assert (labels == row["index"]).mean() == pytest.approx(row["share"])
    else:
        (person,) = record["people"]  # without boxes, the whole image is one person
        assert person["keypoints"][0]["name"] == "nose" and len(person["keypoints"]) == 17
        assert np.allclose(person["bbox"], [0, 0, shape[1], shape[0]], atol=1)


@pytest.fixture
def odd_files(demo_root, tmp_path):
    """Return a folder of unusual image files and of files that are not images."""
    folder = tmp_path / "odd"
    folder.mkdir()
    image = cv2.imread(str(next(demo_root.glob("imagenet/val/*.JPEG"))))[:100]
    cv2.imwrite(str(folder / "grey.png"), image[..., 0])
    cv2.imwrite(str(folder / "rgba.png"), np.dstack([image, image[..., 0]]))
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "plain.png"), image)
    rotated = Image.fromarray(image[..., ::-1])
    exif = rotated.getexif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    rotated.save(folder / "turned.jpg", exif=exif)
    (folder / "broken.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:300])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_odd_files(odd_files, checkpoint, run_tool, tmp_path):
    config = "cls/van_b0_in1k"
    infer = ("infer", config, checkpoint(config))
    done = run_tool(*infer, odd_files, "--demo", "--out-dir", tmp_path / "out", "--batch-size", 4)
    assert done.returncode == 1
    assert "5 of 7 done" in done.stdout
    for name in ("broken.jpg", "empty.png"):
        assert done.stdout.count(f"skipped: {odd_files / name} is not an image") == 1
    sizes = {p.stem: tuple(json.loads(p.read_text())["size"]) for p in (tmp_path / "out").glob("*.json")}
    assert sizes == dict(grey=(128, 100), rgba=(128, 100), deep=(128, 100), plain=(128, 100), turned=(100, 128))
    top = {p.stem: json.loads(p.read_text())["top"] for p in (tmp_path / "out").glob("*.json")}
    scores = {name: {row["class"]: row["score"] for row in rows} for name, rows in top.items()}
    assert scores["deep"] == pytest.approx(scores["plain"]) and scores["rgba"] == pytest.approx(scores["plain"])
    done = run_tool(*infer, odd_files / "notes.txt", "--demo", "--out-dir", tmp_path / "out2")
    assert done.returncode == 1 and "notes.txt is not an image" in done.stdout


def test_output_names(odd_files, checkpoint, run_tool, tmp_path):
    """Inputs of the same name get different outputs, and no input is overwritten."""
    (tmp_path / "more").mkdir()
    shutil.copy(odd_files / "grey.png", tmp_path / "more/plain.png")
    infer = ("infer", "cls/van_b0_in1k", checkpoint("cls/van_b0_in1k"))
    plain = odd_files / "plain.png"
    done = run_tool(*infer, plain, tmp_path / "more/plain.png", "--demo", "--out-dir", tmp_path / "out")
    assert done.returncode == 0 and (tmp_path / "out/plain.png").exists() and (tmp_path / "out/plain_2.png").exists()
    before = plain.read_bytes()
    refused(run_tool(*infer, plain, "--demo", "--out-dir", odd_files), "would be written over an input")
    assert plain.read_bytes() == before
    refused(run_tool(*infer, "nowhere.jpg", "--demo"), "nowhere.jpg: no such file, folder or pattern")
    (tmp_path / "bare").mkdir()
    refused(run_tool(*infer, tmp_path / "bare", "--demo"), "no image or video in this folder")
    refused(run_tool(*infer, plain, "--demo", "--batch-size", 0), "at least 1")
    refused(run_tool(*infer, plain, "--demo", "--device", "cuda:7"), "error: device cuda:7: ")
    refused(run_tool(*infer, plain, "--demo", "--person-boxes", plain), "is neither a list of detections")
    (tmp_path / "boxes.json").write_text("[]")
    refused(run_tool(*infer, plain, "--demo", "--person-boxes", tmp_path / "boxes.json"), "are for pose")


def test_video(odd_files, checkpoint, run_tool, tmp_path):
    frames = [cv2.imread(str(odd_files / "plain.png"))] * 3
    writer = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (128, 100))
    for frame in frames:
        writer.write(frame)
    writer.release()
    (tmp_path / "bad.mp4").write_text("no film")
    infer = ("infer", "cls/van_b0_in1k", checkpoint("cls/van_b0_in1k"), "--demo", "--out-dir", tmp_path / "out")
    done = run_tool(*infer, tmp_path / "film.mp4", tmp_path / "bad.mp4")
    assert done.returncode == 1 and "bad.mp4 is not a video" in done.stdout
    assert len(json.loads((tmp_path / "out/film.json").read_text())["frames"]) == 3
    film = cv2.VideoCapture(str(tmp_path / "out/film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and film.get(cv2.CAP_PROP_FPS) == 10


def test_person_boxes(checkpoint, run_tool, demo_root, tmp_path):
    """Person boxes come from a file or a detector, and an image may have none."""
    config = "pose/simplebaseline_van_b2_coco_256x192"
    (boxes,) = demo_root.glob("coco/person_detection_results/*val*.json")
    files = sorted((demo_root / "coco/val2017").glob("0000005*.jpg"))
    infer = ("infer", config, checkpoint(config), *files, demo_root / "coco/val2017/000000000001.jpg", "--demo")
    done = run_tool(*infer, "--out-dir", tmp_path / "out", "--person-boxes", boxes)
    assert done.returncode == 0, done.stdout
    known = json.loads(boxes.read_text())
    for file in files:
        people = json.loads((tmp_path / f"out/{file.stem}.json").read_text())["people"]
        expected = [row["bbox"] for row in known if row["image_id"] == int(file.stem)]
        actual = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (person["bbox"] for person in people)]
        assert np.allclose(sorted(actual), sorted(expected), atol=0.01)
    assert json.loads((tmp_path / "out/000000000001.json").read_text())["people"] == []
    truth = demo_root / "coco/annotations/person_keypoints_val2017.json"
    done = run_tool(*infer, "--out-dir", tmp_path / "truth", "--person-boxes", truth)
    assert done.returncode == 0, done.stdout
    rows = [row for row in json.loads(truth.read_text())["annotations"] if not row["iscrowd"]]
    for file in files:
        people = json.loads((tmp_path / f"truth/{file.stem}.json").read_text())["people"]
        expected = [row["bbox"] for row in rows if row["image_id"] == int(file.stem)]
        actual = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (person["bbox"] for person in people)]
        assert expected and np.allclose(sorted(actual), sorted(expected), atol=0.01)
    detector = "det/retinanet_van_b0_1x_coco"
    done = run_tool(*infer, "--out-dir", tmp_path / "o2", "--detector", detector, checkpoint(detector))
    assert done.returncode == 0, done.stdout
    seg = "seg/semantic_fpn_van_b0"
    refused(run_tool(*infer, "--detector", seg, checkpoint(seg)), "no detector with a class 'person'")
