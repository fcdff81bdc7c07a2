"""The visualization tools run on models with random weights."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmpose.datasets.datasets.utils import parse_pose_metainfo

from tests.tools.test_train_test import refused
from van_mm import get_config
from van_mm.apis.build import build_random_model
from van_mm.apis.inferencer import preprocess_images
from van_mm.visualization import figures
from van_mm.visualization.attention import compute_attention_maps


@pytest.fixture(scope="module")
def van(tmp_path_factory):
    """Return a checkpoint of cls/van_b0_in1k with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("van") / "b0.pth"
    torch.save(dict(state_dict=build_random_model(get_config("cls/van_b0_in1k")).state_dict()), file)
    return file


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """Return the name of an upstream config and a checkpoint with random weights."""
    name = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
    file = tmp_path_factory.mktemp("resnet") / "r18.pth"
    torch.save(dict(state_dict=build_random_model(get_config(name)).state_dict()), file)
    return name, file


@pytest.fixture
def image_files(demo_root):
    return sorted(demo_root.glob("imagenet/val/*.JPEG"))[:2]


def test_cam(van, resnet, image_files, run_tool, tmp_path):
    cam = ("visualization/vis_cam", *image_files, "--model", "cls/van_b0_in1k", van)
    out = ("--out", tmp_path / "cam.png")
    done = run_tool(*cam, "--model", *resnet, *out, "--target", "goldfish")
    assert done.returncode == 0, done.stdout
    classes = json.loads((tmp_path / "cam.json").read_text())
    assert list(classes) == [str(file) for file in image_files]
    for rows in classes.values():
        assert [row["index"] for row in rows] == [1, 1] and {row["class"] for row in rows} == {"goldfish"}
    height, width = cv2.imread(str(tmp_path / "cam.png")).shape[:2]
    assert width > height  # two rows, three columns
    done = run_tool(*cam, *out, "--demo", "--size", 96, "--method", "layercam", "--target-layer", "backbone.block3.4")
    assert done.returncode == 0, done.stdout
    refused(run_tool(*cam, "--demo", "--target-layer", "backbone.blok3"), "no layer 'backbone.blok3'")
    refused(run_tool(*cam, "--demo", "--target", "golfish"), "no such class", "goldfish")
    refused(run_tool(*cam, "--demo", "--target", 1000), "classes are 0 to 999")
    refused(run_tool("visualization/vis_cam", "nowhere.png", "--model", "cls/van_b0_in1k", van), "nowhere.png")
    refused(run_tool("visualization/vis_cam", van, "--model", "cls/van_b0_in1k", van), "is not an image")
    refused(run_tool(*cam, "--model", "seg/semantic_fpn_van_b0", van), "not of this config's model")


@pytest.fixture
def grids(monkeypatch):
    """Collect the rows of images of each grid that a tool draws."""
    drawn, save = [], figures.save_image_grid

    def save_and_collect(rows, *args, **options) -> None:
        drawn.append(rows)
        save(rows, *args, **options)

    monkeypatch.setattr(figures, "save_image_grid", save_and_collect)
    return drawn


def read_rgb(file, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image, and resize it to (width, height)."""
    image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    return image if size is None else cv2.resize(image, size)


def assert_same_image(drawn: np.ndarray, expected: np.ndarray) -> None:
    """Assert that two images are alike, and would not be with swapped colors."""
    assert drawn.shape == expected.shape
    assert np.abs(drawn.astype(int) - expected).mean() < 12 < np.abs(drawn[..., ::-1].astype(int) - expected).mean()


def test_attention(van, resnet, image_files, run_tool, tmp_path, grids):
    """A row has the image and then the maps of the blocks asked for, in this order."""
    attention = ("visualization/vis_attention", "cls/van_b0_in1k", van, *image_files, "--demo")
    attention = (*attention, "--out", tmp_path / "a.png", "--size", 128)
    model = build_random_model(get_config("cls/van_b0_in1k"))
    model.load_state_dict(torch.load(van)["state_dict"])
    all_blocks = [(stage, block) for stage, depth in enumerate((3, 3, 5, 2), 1) for block in range(1, depth + 1)]
    for options, blocks in (
        ((), [(1, 3), (2, 3), (3, 5), (4, 2)]),
        (("--blocks", "all"), all_blocks),
        (("--blocks", "3.5", "3.1"), [(3, 5), (3, 1)]),
    ):
        done = run_tool(*attention, *options)
        assert done.returncode == 0, done.stdout
        for file, (image, *heatmaps) in zip(image_files, grids[-1], strict=True):
            assert_same_image(image, read_rgb(file, (128, 128)))
            _, inputs = preprocess_images(get_config("cls/van_b0_in1k"), model, [file], 128)
            maps = compute_attention_maps(model.backbone, inputs)
            assert len(heatmaps) == len(blocks)
            for heatmap, block in zip(heatmaps, blocks, strict=True):
                expected = figures.overlay_heatmap(image, maps[block][0])
                assert np.abs(heatmap.astype(int) - expected).mean() < 2
    assert cv2.imread(str(tmp_path / "a.png")).std() > 0
    refused(run_tool(*attention, "--blocks", "3.6"), "no 3.6", "1.1 to 4.2", "3, 3, 5, 2 blocks")
    refused(run_tool("visualization/vis_attention", *resnet, *image_files), "no VAN")


def test_erf(van, image_files, run_tool, tmp_path):
    erf = ("visualization/vis_erf", "--size", 96, "--num", 2, "--out", tmp_path / "erf.png")
    options = ("--backbones", "b0", "resnet-50", "--model", "cls/van_b0_in1k", van, "--inputs", *image_files)
    done = run_tool(*erf, *options)
    assert done.returncode == 0, done.stdout
    result = json.loads((tmp_path / "erf.json").read_text())
    assert result["num"] == 2 and list(result["areas"]) == ["b0", "resnet-50", "van_b0_in1k"]
    for row in result["areas"].values():
        assert list(row) == ["20%", "30%", "50%", "99%"] and list(row.values()) == sorted(row.values())
    assert (tmp_path / "erf.png").exists() and "99%" in done.stdout
    refused(run_tool(*erf), "--backbones")
    refused(run_tool(*erf, "--backbones", "b7"), "no b7", "b6")
    refused(run_tool(*erf, "--backbones", "b0", "--num", 0), "at least 1")


@pytest.mark.parametrize(
    "config",
    [
        "cls/van_b2_in1k",
        "cls/van_b4_in22k_cub",
        "det/mask_rcnn_van_b2_ms_3x_coco",
        "det/mask2former_van_b2_50e_coco_panoptic",
        "seg/upernet_van_b2",
        "seg/edn_van_b1_duts",
        "pose/simplebaseline_van_b2_coco_256x192",
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_browse_dataset(config, split, demo_root, run_tool, tmp_path, grids):
    browse = ("visualization/browse_dataset", config, "--demo", "--demo-root", demo_root, "--split", split)
    done = run_tool(*browse, "--num", 3, "--columns", 2, "--out", tmp_path / "data.png")
    assert done.returncode == 0, done.stdout
    assert "3 of" in done.stdout or "2 of 2" in done.stdout
    images = [image for row in grids[0] for image in row]
    assert len(images) == (2 if "2 of 2" in done.stdout else 3) and len(grids[0][0]) == 2
    for i, image in enumerate(images):
        assert image.std() > 10 and not any(np.array_equal(image, other) for other in images[:i])
    assert (tmp_path / "data.png").exists()


@pytest.fixture
def browse(demo_root, run_tool, tmp_path, grids):
    """Return the drawing of the first validation sample of an experiment."""

    def draw(config: str) -> np.ndarray:
        options = ("--demo", "--demo-root", demo_root, "--split", "val", "--num", 1, "--out", tmp_path / "one.png")
        done = run_tool("visualization/browse_dataset", config, *options)
        assert done.returncode == 0, done.stdout
        return grids[-1][0][0]

    return draw


def find_changes(drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return where (H, W) a drawing differs clearly from the image below it."""
    return np.abs(drawn.astype(int) - image).max(2) > 40


def test_browse_dataset_shows_original_colors(browse, demo_root):
    """Images are shown without normalization and with the right channel order."""
    image = read_rgb(sorted(demo_root.glob("imagenet/val/*.JPEG"))[0])
    drawn = browse("cls/van_b2_in1k")
    scale = round(drawn.shape[0] / 0.9) / min(image.shape[:2])  # the crop is 90 % of the shorter side
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = ((image.shape[i] - drawn.shape[i]) // 2 for i in (0, 1))
    assert_same_image(drawn, image[top : top + drawn.shape[0], left : left + drawn.shape[1]])


@pytest.mark.parametrize("config", ["det/retinanet_van_b0_1x_coco", "det/mask_rcnn_van_b2_ms_3x_coco"])
def test_browse_dataset_draws_boxes_in_place(config, browse, demo_root):
    data = json.loads((demo_root / "coco/annotations/instances_val2017.json").read_text())
    info, drawn = data["images"][0], browse(config)
    factor = drawn.shape[1] / info["width"]
    image = read_rgb(demo_root / "coco/val2017" / info["file_name"], drawn.shape[1::-1])
    boxes = [a["bbox"] for a in data["annotations"] if a["image_id"] == info["id"]]
    changes, inside, found = find_changes(drawn, image), np.zeros(drawn.shape[:2], bool), {0: [], 12: []}
    for x, y, width, height in np.array(boxes) * factor:
        for shift, shares in found.items():
            left, top, right, bottom = (round(v) + shift for v in (x, y, x + width, y + height))
            rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
            shares += [changes[rows, max(edge - 3, 0) : edge + 4].any(1).mean() for edge in (left, right)]
            shares += [changes[max(edge - 3, 0) : edge + 4, columns].any(0).mean() for edge in (top, bottom)]
        inside[max(round(y) - 4, 0) : round(y + height) + 5, max(round(x) - 4, 0) : round(x + width) + 5] = True
    assert min(found[0]) > 0.75 and min(found[12]) < 0.5, found
    assert changes[~inside].mean() < 0.01
    assert_same_image(drawn[~inside][None], image[~inside][None])


def test_browse_dataset_draws_classes_in_place(browse, demo_root):
    from mmseg.datasets import ADE20KDataset

    folder, palette = demo_root / "ade/ADEChallengeData2016", ADE20KDataset.METAINFO["palette"]
    drawn = browse("seg/upernet_van_b2")
    image = read_rgb(folder / "images/validation/ADE_val_00000001.jpg", drawn.shape[1::-1])
    labels = cv2.imread(str(folder / "annotations/validation/ADE_val_00000001.png"), cv2.IMREAD_UNCHANGED)
    labels = cv2.resize(labels, drawn.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    present = [label for label in np.unique(labels) if label]
    assert len(present) > 1
    for label in present:
        region = cv2.erode((labels == label).astype(np.uint8), np.ones((9, 9))) > 0
        expected = 0.4 * image[region] + 0.6 * np.array(palette[label - 1])
        assert np.abs(np.median(drawn[region] - expected, axis=0)).max() < 12


def test_browse_dataset_draws_keypoints_in_place(browse, demo_root):
    people = json.loads((demo_root / "coco/annotations/person_keypoints_val2017.json").read_text())
    drawn = browse("pose/simplebaseline_van_b2_coco_256x192")
    person, (height, width) = people["annotations"][0], drawn.shape[:2]
    x, y, w, h = person["bbox"]
    scale = max(w * 1.25 / width, h * 1.25 / height)  # of the padded box, which gets the aspect ratio of the input
    offset = np.array([x + w / 2, y + h / 2]) - scale * np.array([width, height]) / 2
    points = np.array(person["keypoints"]).reshape(-1, 3)
    seen = points[:, 2] > 0
    points = ((points[:, :2] - offset) / scale).round().astype(int)
    colors = parse_pose_metainfo(dict(from_file="configs/_base_/datasets/coco.py"))["keypoint_colors"]
    found = {}
    for shift in (0, 20):
        regions = [drawn[max(b - 3, 0) : b + 4, max(a - 3, 0) : a + 4].astype(int) for a, b in points[seen] + shift]
        distances = [np.abs(r - color).max(2).min() for r, color in zip(regions, colors[seen], strict=True) if r.size]
        found[shift] = np.mean(np.array(distances) < 90)
    assert found[0] == 1 and found[20] < 0.5, found


def test_browse_dataset_draws_the_saliency_map(browse, demo_root):
    drawn = browse("seg/edn_van_b1_duts")
    file = sorted(demo_root.glob("saliency/DUTS-TE/DUTS-TE-Mask/*"))[0]
    mask = cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), drawn.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    assert (np.abs(drawn.astype(int) - mask[..., None]) > 64).mean() < 0.02 < (mask > 127).mean() < 0.9


def test_browse_dataset_rejects(run_tool):
    refused(run_tool("visualization/browse_dataset", "seg/upernet_van_b2"), "(missing)", "--demo")
    refused(run_tool("visualization/browse_dataset", "seg/upernet_van_b2", "--num", 0), "at least 1")
    refused(run_tool("visualization/browse_dataset", "cls/van_b4_in22k", "--split", "val"), "no val_dataloader")


def test_scheduler(run_tool, tmp_path):
    names = ("seg/upernet_van_b2", "det/mask_rcnn_van_b2_1x_coco")
    done = run_tool("visualization/vis_scheduler", *names, "--out", tmp_path / "lr.png")
    assert done.returncode == 0, done.stdout
    runs = json.loads((tmp_path / "lr.json").read_text())
    seg, det = (runs[name] for name in names)
    lr = dict(zip(seg["step"], seg["lr"], strict=True))
    assert seg["step"][-1] == 159999 and max(lr.values()) == pytest.approx(6e-5, rel=2e-2)
    assert lr[0] < 1e-9 and lr[159999] < 1e-8
    assert lr[80000] == pytest.approx(6e-5 * (160000 - 80000) / 158500, rel=1e-3)  # poly, power 1, after the warm-up
    assert det["steps_per_epoch"] == 7330 and det["step"][-1] == 12 * 7330 - 1
    lr = dict(zip(det["step"], det["lr"], strict=True))
    assert [lr[7330 * epoch] for epoch in (1, 7, 8, 10, 11)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6])
    assert set(det["momentum"]) == {0.9}
    upstream = "mmseg::unet/unet-s5-d16_fcn_4xb4-40k_hrf-256x256.py"
    refused(run_tool("visualization/vis_scheduler", upstream), "is not known", "--samples")
