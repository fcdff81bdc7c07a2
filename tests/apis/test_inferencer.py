"""``van_mm.load`` gives a model of any task from any source, and the model predicts on any kind of image."""

import doctest
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

import van_mm
from tests.checkpoints.test_loading import SMALL
from tests.conftest import ROOT
from van_mm import get_config
from van_mm.apis import results
from van_mm.apis.build import build_random_model
from van_mm.apis.checkpoint_config import read_config
from van_mm.apis.inferencer import get_dataset_meta
from van_mm.checkpoints.io import MODEL_ZOO, get_cache_path
from van_mm.checkpoints.plain_types import to_plain_types
from van_mm.demo.demo_config import apply_demo
from van_mm.models.backbones.van import ARCH_SETTINGS
from van_mm.utils.config_walk import iter_dicts
from van_mm.utils.errors import UserError

TASKS = {
    "classification": ("cls/van_b0_in1k", results.ClassificationResult, "top"),
    "detection": ("det/retinanet_van_b0_1x_coco", results.DetectionResult, "instances"),
    "instances": ("det/mask_rcnn_van_b0_1x_coco", results.DetectionResult, "instances"),
    "panoptic": ("det/mask2former_van_b2_50e_coco_panoptic", results.PanopticResult, "segments"),
    "semantic": ("seg/semantic_fpn_van_b0", results.SegmentationResult, "areas"),
    "saliency": ("seg/edn_van_b1_duts", results.SaliencyResult, "salient"),
    "pose": ("pose/simplebaseline_van_b2_coco_256x192", results.PoseResult, "people"),
}
NAMES = dict(semantic=("soil", "crop", "weed"))


def make_config(name: str):
    """Return a config of the suite for the demo's small images, with a small backbone."""
    cfg = get_config(name)
    apply_demo(cfg)
    dims = ARCH_SETTINGS[cfg.model.backbone.arch]["embed_dims"]
    cfg.model.backbone.arch = SMALL
    for node in iter_dicts(cfg.model):
        if node.get("in_channels") == dims:
            node.in_channels = SMALL["embed_dims"]
    if cfg.model.get("head"):
        cfg.model.head.in_channels = SMALL["embed_dims"][-1]
    for key in ("rpn", "rcnn"):  # random boxes and masks have low scores
        if key in cfg.model.get("test_cfg", {}):
            cfg.model.test_cfg[key].update(score_thr=0.0, max_per_img=20)
    return cfg


def save_checkpoint(cfg, path, **meta) -> None:
    """Save random weights as a training with mmengine does."""
    torch.manual_seed(0)
    model = build_random_model(cfg)
    meta = dict(cfg=cfg.pretty_text, dataset_meta=to_plain_types(get_dataset_meta(cfg)), epoch=1) | meta
    torch.save(dict(meta=meta, state_dict=model.state_dict(), optimizer={}), path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return a function that gives the checkpoint of a task."""
    folder, done = tmp_path_factory.mktemp("checkpoints"), {}

    def get(task: str):
        if task not in done:
            done[task] = folder / f"{task}.pth"
            cfg = make_config(TASKS[task][0])
            if task == "semantic":
                cfg.model.decode_head.num_classes = 3
            meta = dict(dataset_meta=dict(classes=NAMES[task], palette=[[9, 9, 9]] * 3)) if task in NAMES else {}
            save_checkpoint(cfg, done[task], **meta)
        return done[task]

    return get


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A lossless image of 100 x 80 pixels."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8).repeat(16, 0).repeat(20, 1)
    cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture(scope="module")
def classifier(checkpoints):
    return van_mm.load(checkpoints("classification"), device="cpu")


def test_every_task_in_one_process(checkpoints, photo, tmp_path, monkeypatch):
    """The README's lines run for each task; then the models of four codebases are used in turn."""
    (lines,) = re.findall(r"```python\n(import van_mm\n\nmodel = .*?)```", (ROOT / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", cv2.imread(str(photo)))
    best = tmp_path / "work_dirs/mine/best.pth"
    best.parent.mkdir(parents=True)
    models = {}
    for task, (_, kind, _) in TASKS.items():
        best.unlink(missing_ok=True)
        best.symlink_to(checkpoints(task))
        names = {}
        exec(lines, names)
        assert type(names["result"]) is kind and (tmp_path / "out/photo.json").exists()
        shutil.rmtree(tmp_path / "out")
        models[task] = names["model"]
        models[task]._context.score_thr = 0.0  # random weights give low scores
    first = {task: model(str(photo)) for task, model in models.items()}
    for task, result in reversed(first.items()):
        kind, key = TASKS[task][1:]
        assert type(result) is kind and result.path == str(photo)
        again = models[task](photo)
        assert again.to_dict() == result.to_dict()
        record = json.loads(json.dumps(result.to_dict()))
        assert record["file"] == str(photo) and record["size"] == [100, 80] and key in record
        files = {path.name for path in result.save(tmp_path / task)}
        assert {"photo.png", "photo.json"} <= files == {path.name for path in (tmp_path / task).iterdir()}
        assert json.loads((tmp_path / task / "photo.json").read_text()) == record
        assert repr(result).startswith(f"{kind.__name__}(photo.png, 100 x 80: ")
        assert "Inferencer(" in repr(models[task])

    scores = first["classification"].scores
    assert scores.shape == (1000,) and scores.sum() == pytest.approx(1, abs=1e-4)
    best = first["classification"].top[0]
    assert best.index == scores.argmax() and best.name == first["classification"].names[best.index] != str(best.index)
    for task in ("detection", "instances"):
        found = first[task]
        assert len(found) == len(found.scores) == len(found.labels) > 0 and found.boxes.shape == (len(found), 4)
        assert (np.diff(found.scores) <= 0).all() and found.names[0] == "person"
    assert first["detection"].masks is None
    assert first["instances"].masks.shape == (len(first["instances"]), 80, 100)
    assert first["instances"].masks.dtype == bool
    assert first["panoptic"].panoptic.shape == first["saliency"].saliency.shape == (80, 100)
    assert first["semantic"].names == NAMES["semantic"] and first["semantic"].label_map.shape == (80, 100)
    assert 0 <= first["saliency"].saliency.min() <= first["saliency"].saliency.max() <= 1
    pose = first["pose"]
    assert pose.keypoints.shape == (1, 17, 2) and pose.keypoint_scores.shape == (1, 17) and pose.names[0] == "nose"
    assert np.allclose(pose.boxes, [[0, 0, 100, 80]], atol=1)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


def test_every_kind_of_input(classifier, photo, tmp_path):
    """The same image gives the same scores, whatever it is given as."""
    expected = classifier(photo).scores
    bgr = cv2.imread(str(photo))
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    tensor = torch.from_numpy(rgb.transpose(2, 0, 1).copy())
    pil, rgba = Image.fromarray(rgb), np.dstack([bgr, bgr[..., 0]])
    ones = [str(photo), bgr, bgr / 255.0, bgr.astype(np.float32), bgr.astype(np.uint16) * 257, rgba, pil]
    ones += [pil.convert("RGBA"), tensor, tensor / 255, tensor.int()]
    for image in ones:
        result = classifier(image)
        assert isinstance(result, results.ClassificationResult)
        np.testing.assert_allclose(result.scores, expected, rtol=1e-4)
    for several in (ones, tuple(ones[1:3]), np.stack([bgr, bgr]), torch.stack([tensor, tensor]), photo.parent,
                    str(photo.parent / "*.png"), [photo.parent, bgr]):  # fmt: skip
        found = classifier(several, batch_size=2)
        assert isinstance(found, list) and found
        for result in found:
            np.testing.assert_allclose(result.scores, expected, rtol=1e-4)
    gray = pil.convert("L")
    np.testing.assert_allclose(classifier(gray).scores, classifier(np.asarray(gray)).scores)
    assert not np.allclose(classifier(rgb).scores, expected, rtol=1e-4)  # arrays are BGR

    handler = partial(QuietHandler, directory=str(photo.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/photo.png?size=full"
        np.testing.assert_allclose(classifier(url).scores, expected)
        assert [path.name for path in classifier(url).save(tmp_path)] == ["photo.png", "photo.json"]
        with pytest.raises(UserError, match="can't be downloaded"):
            classifier(url.replace("photo.png", "none.png"))
        server.shutdown()


def test_streams_are_lazy(classifier, photo, tmp_path):
    """Videos, generators and ``stream=True`` read no more than they need."""
    bgr = cv2.imread(str(photo))
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (100, 80))
    for _ in range(5):
        writer.write(bgr)
    writer.release()
    frames = classifier(tmp_path / "film.avi", batch_size=2)
    first = next(frames)
    assert first.frame == 0 and "frame 0" in repr(first) and first.to_dict()["frame"] == 0
    assert [frame.frame for frame in frames] == [1, 2, 3, 4]
    taken = []

    def generate():
        for number in range(1000):
            taken.append(number)
            yield bgr

    stream = classifier(generate(), batch_size=2)
    assert not taken
    next(stream)
    assert len(taken) < 20
    stream.close()
    mixed = classifier([bgr, tmp_path / "film.avi", photo], batch_size=4)
    assert [(result.path[-8:], result.frame) for result in mixed] == [
        ("", None), *[("film.avi", number) for number in range(5)], ("hoto.png", None)
    ]  # fmt: skip
    assert next(classifier(photo.parent, stream=True)).path == str(photo)


def test_unreadable_files(classifier, photo, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    errors = {}
    found = classifier([photo, bad, photo], batch_size=3, on_error=errors.__setitem__)
    assert len(found) == 2 and list(errors) == [str(bad)] and "is not an image" in str(errors[str(bad)])
    for wrong, message in (
        (bad, "is not an image"),
        (tmp_path / "none.jpg", "no such file"),
        (object(), "is no image"),
        (np.zeros((2, 3, 4, 5, 3)), "shape"),
        (torch.randn(3, 8, 8), "without normalization"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
    ):
        with pytest.raises(UserError, match=message):
            classifier(wrong)
    with pytest.raises(UserError, match="batch_size"):
        classifier(photo, batch_size=0)
    with pytest.raises(UserError, match="written over the image"):
        classifier(photo).save(photo.parent)


def test_batches_give_the_same(checkpoints, photo):
    model = van_mm.load(checkpoints("semantic"), device="cpu")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in [(60, 90, 3)] * 3 + [(80, 40, 3)]]
    singles = [model(image) for image in images]
    for single, batched in zip(singles, model(images, batch_size=4), strict=True):
        assert (single.label_map == batched.label_map).mean() > 0.99
    folded = van_mm.load(checkpoints("semantic"), device="cpu", fold=True)(images[0])
    assert (folded.label_map == singles[0].label_map).mean() > 0.99
    amp = van_mm.load(checkpoints("semantic"), device="cpu", amp=True)(images[0])
    assert (amp.label_map == singles[0].label_map).mean() > 0.8


def test_people_in_boxes(checkpoints, photo):
    model = van_mm.load(checkpoints("pose"), device="cpu")
    boxes = [[10, 10, 50, 70], [40, 5, 90, 75, 0.5]]
    single = model(photo, boxes=boxes[:1])
    assert (
        np.allclose(single.boxes, boxes[:1], atol=0.01) and single.scores == [1] and repr(single).endswith("1 person)")
    )
    two, none = model([photo, photo], boxes=[np.array([[*boxes[0], 1], boxes[1]]), []])
    assert two.keypoints.shape == (2, 17, 2) and np.allclose(two.scores, [1, 0.5])
    assert np.allclose(two.keypoints[0], single.keypoints[0], atol=1)
    assert len(none) == 0 and none.keypoints.shape == (0, 17, 2) and none.to_dict()["people"] == []
    assert none.draw().shape[2] == 3
    detector = van_mm.load(checkpoints("detection"), device="cpu", score_thr=0.0)
    found = detector(photo)
    assert len(model(photo, detector=detector)) == (found.labels == 0).sum()
    with pytest.raises(UserError, match="shape"):
        model(photo, boxes=[[1, 2, 3]])
    with pytest.raises(UserError, match="no detector"):
        model(photo, detector=model)
    with pytest.raises(UserError, match="for pose estimation"):
        detector(photo, boxes=boxes)


def test_config_and_checkpoint(checkpoints, photo, tmp_path):
    """A config can be given as an object, a path or a name; without a checkpoint it is refused."""
    name = TASKS["classification"][0]
    cfg = make_config(name)
    expected = van_mm.load(checkpoints("classification"))(photo).scores
    np.testing.assert_allclose(van_mm.load(cfg, checkpoints("classification"))(photo).scores, expected)
    cfg.dump(tmp_path / "mine.py")
    np.testing.assert_allclose(van_mm.load(tmp_path / "mine.py", checkpoints("classification"))(photo).scores, expected)
    for config in (name, cfg, tmp_path / "mine.py"):
        with pytest.raises(UserError, match="is a config, which has no weights"):
            van_mm.load(config)
    with pytest.raises(UserError, match="is not of this config's model"):
        van_mm.load(name, checkpoints("classification"))
    with pytest.raises(UserError, match="no checkpoint"):
        van_mm.load("nowhere.pth")
    with pytest.raises(UserError, match="device cuda:7"):
        van_mm.load(checkpoints("classification"), device="cuda:7")


def test_model_zoo(photo, tmp_path, monkeypatch):
    """Published weights have no config in them. A backbone gives features, and no predictions."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    cfg = get_config("cls/van_b0_in1k")
    torch.manual_seed(0)
    weights = build_random_model(cfg).state_dict()
    backbone = {key: value for key, value in weights.items() if key.startswith("backbone.")}
    for name, content in (("b0_in1k_huggingface", weights), ("b0_in1k_official", backbone)):
        path = get_cache_path(MODEL_ZOO[name]["url"])
        path.parent.mkdir(parents=True)
        torch.save(content, path)
        monkeypatch.setitem(MODEL_ZOO[name], "size_mb", 0)
    model = van_mm.load("b0_in1k_huggingface")
    assert model.names[0] == "tench" and len(model(photo).top) == 5
    features = model.features(photo)
    assert features.shape == (256,) and model.features([photo] * 3, batch_size=2).shape == (3, 256)
    headless = van_mm.load("van_mm://b0_in1k_official")
    np.testing.assert_allclose(headless.features(photo), features, rtol=1e-5)
    with pytest.raises(UserError, match="backbone without a head"):
        headless(photo)
    torch.save(
        dict(weights, **{"head.fc.weight": torch.rand(7, 256), "head.fc.bias": torch.rand(7)}), tmp_path / "7.pth"
    )
    assert len(van_mm.load(tmp_path / "7.pth").names) == 7
    torch.save({"conv.weight": torch.rand(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="Name the config too"):
        van_mm.load(tmp_path / "other.pth")


MALICIOUS = {
    "call": "model = open('/tmp/x', 'w')",
    "type": "model = dict(type='os.system', command='touch x')",
    "module": "model = dict(type='mmdet.RetinaNet', head=dict(type='antigravity'))",
    "nms": "model = dict(type='mmdet.RetinaNet', nms=dict(type='__import__(\"os\").getcwd()'))",
    "attribute": "model = dict(type='torch.hub.load')",
    "custom_imports": "custom_imports = dict(imports=['antigravity'])\nmodel = dict(type='mmdet.RetinaNet')",
    "comprehension": "model = [x for x in ().__class__.__base__.__subclasses__()]",
    "syntax": "model = ",
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_configs_in_checkpoints_run_no_code(kind, tmp_path):
    text = f"default_scope = 'mmdet'\n{MALICIOUS[kind]}"
    torch.save(dict(meta=dict(cfg=text), state_dict={"a": torch.rand(1)}), tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"Name the config too"):
        van_mm.load(tmp_path / "bad.pth")
    assert "antigravity" not in sys.modules


def test_configs_of_trainings_are_read():
    """The text of a config gives the same model and pipeline as the config."""
    for name in ("cls/van_b2_in1k", "det/atss_van_b2_ms_3x_coco", "seg/upernet_van_b2", TASKS["pose"][0]):
        cfg = get_config(name)
        cfg.optimizer = float("nan")
        found = read_config(cfg.pretty_text, name)
        assert found.model == cfg.model and found.test_dataloader == cfg.test_dataloader


@pytest.mark.parametrize("task", ["classification", "semantic", "saliency", "pose"])
def test_exported_models(task, checkpoints, photo, tmp_path, run_tool):
    """An ONNX file predicts as the model that it was made of, and names the classes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    cfg = make_config(TASKS[task][0])
    if task == "semantic":
        cfg.model.decode_head.num_classes = 3
    if task == "pose":
        cfg.model.test_cfg.flip_test = False
    cfg.dump(tmp_path / "mine.py")
    out = tmp_path / "model.onnx"
    done = run_tool("deploy/export_onnx", tmp_path / "mine.py", checkpoints(task), "--out", out)
    assert done.returncode == 0, done.stdout
    expected = van_mm.load(tmp_path / "mine.py", checkpoints(task), device="cpu")([photo] * 3, batch_size=2)
    model = van_mm.load(out)
    for found, wanted in zip(model([photo] * 3, batch_size=2), expected, strict=True):
        assert type(found) is type(wanted) and found.names == wanted.names
        if task == "semantic":
            assert (found.label_map == wanted.label_map).mean() > 0.99
        else:
            key = dict(classification="scores", saliency="saliency", pose="keypoints")[task]
            np.testing.assert_allclose(getattr(found, key), getattr(wanted, key), rtol=1e-2, atol=2e-3)
    properties = {one.key: one.value for one in onnx.load(out).metadata_props}
    names = list(json.loads(properties["names"]).values())
    assert task == "pose" and names == ["person"] or names[: len(model.names)] == list(model.names)[: len(names)]
    with pytest.raises(UserError, match="gives features"):
        model.features(photo)
    with pytest.raises(UserError, match="without amp"):
        van_mm.load(out, amp=True)


def test_exported_models_that_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "text.onnx").write_text("no model")
    for name, message in (("none.onnx", "no such file"), ("text.onnx", "does not load in onnxruntime")):
        with pytest.raises(UserError, match=message):
            van_mm.load(tmp_path / name)


def test_show(classifier, photo, monkeypatch):
    shown = []
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(UserError, match="no image viewer"):
        classifier(photo).show()

    class Viewer(ImageShow.Viewer):
        def show(self, image, **options) -> int:
            shown.append(image)
            return 1

    ImageShow.register(Viewer())
    classifier(photo).show()
    assert shown[0].height >= 320  # small images are enlarged
    assert classifier(photo)._repr_png_().startswith(b"\x89PNG")


def test_import_is_cheap():
    """``import van_mm`` imports neither PyTorch nor mmengine; a public name does at its first use."""
    code = (
        "import sys, van_mm; assert not {'torch', 'mmengine', 'cv2'} & set(sys.modules); assert 'load' in dir(van_mm)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        van_mm.lode  # noqa: B018


@pytest.mark.parametrize("module", ["inferencer", "inputs", "results", "checkpoint_config", "build"])
def test_examples(module, checkpoints, photo, tmp_path, monkeypatch):
    """The examples of the docstrings run, in a folder with a trained model and a photo."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work_dirs/fields").mkdir(parents=True)
    (tmp_path / "work_dirs/fields/best.pth").symlink_to(checkpoints("semantic"))
    cv2.imwrite("photo.jpg", np.zeros((300, 400, 3), np.uint8))
    model = van_mm.load("work_dirs/fields/best.pth", device="cpu") if module == "inferencer" else None
    tested = import_module(f"van_mm.apis.{module}")
    done = doctest.testmod(tested, extraglobs=dict(model=model), optionflags=doctest.ELLIPSIS)
    assert done.attempted and not done.failed
