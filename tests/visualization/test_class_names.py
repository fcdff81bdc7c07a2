"""Names of classes come from the checkpoint, and are drawn in any script."""

import warnings

import cv2
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from mmengine.structures import PixelData

from van_mm import get_config
from van_mm.apis.build import build_model, build_random_model
from van_mm.apis.inferencer import Inferencer
from van_mm.visualization import class_names, fonts
from van_mm.visualization.class_names import get_trained_meta, use_trained_names
from van_mm.visualization.drawing import build_visualizer, draw_sample
from van_mm.visualization.panels import draw_beside, draw_legend

DOG, CAT = "犬", "猫"


@pytest.fixture
def messages(monkeypatch):
    found = []
    for module in (class_names, fonts):
        monkeypatch.setattr(module, "print_log", lambda message, *args, **kwargs: found.append(message))
    return found


@pytest.fixture
def no_font(monkeypatch):
    """Leave only the fonts that come with matplotlib."""
    own = [font for font in font_manager.fontManager.ttflist if font.name == fonts.DEFAULT_FAMILY]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    fonts.find_families.cache_clear()
    yield
    fonts.find_families.cache_clear()


@pytest.fixture
def font(no_font, tmp_path, monkeypatch):
    """Install a font whose two characters are filled squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "dog", "cat"])
    builder.setupCharacterMap({ord(DOG): "dog", ord(CAT): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "dog": square, "cat": square})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in (".notdef", "dog", "cat")})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable(dict(familyName="Test Animals", styleName="Regular"))
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "animals.ttf")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "animals.ttf")])
    return "Test Animals"


def count_ink(name: str) -> int:
    """Return the number of dark pixels of a name in a legend."""
    drawn = draw_beside(np.full((320, 10, 3), 255, np.uint8), lambda axis: draw_legend(axis, [(name, (255, 255, 255))]))
    return int((drawn[:, 60:] < 100).all(-1).sum())


def test_names_in_an_installed_font(font, messages):
    assert fonts.choose_families(["a cat", DOG]) == ["DejaVu Sans", font]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_ink(DOG * 3 + " a") > count_ink("a") + 100
    assert messages == []


def test_one_line_without_a_font(no_font, messages):
    count_ink(DOG), count_ink(DOG)
    (message,) = messages
    assert "no installed font has 1 of the characters" in message and "Install a font" in message


@pytest.mark.parametrize("script", ["café", "кошка", "γάτα", "قطة"])
def test_scripts_of_the_default_font(script, messages):
    assert fonts.choose_families([script]) == ["DejaVu Sans"] and messages == []


@pytest.mark.parametrize("truth", [False, True])
def test_names_on_a_segmentation(truth, font, messages):
    """mmseg writes names with OpenCV, which draws question marks."""
    cfg = get_config("seg/semantic_fpn_van_b0")
    build_random_model(cfg)
    from mmseg.structures import SegDataSample

    image = np.full((200, 200, 3), 90, np.uint8)
    labels = torch.zeros(1, 200, 200, dtype=torch.long)
    labels[:, :, 100:] = 1
    sample = SegDataSample(pred_sem_seg=PixelData(data=labels), gt_sem_seg=PixelData(data=labels))
    visualizer = build_visualizer(cfg, dict(classes=(DOG * 3, CAT * 3), palette=[[0, 0, 0], [9, 9, 9]]))
    drawn = draw_sample(visualizer, image, sample, truth)
    bare = draw_sample(visualizer, image, sample, truth, labels=False)
    changed = np.abs(drawn.astype(int) - bare).sum(-1) > 30
    assert drawn.shape == image.shape and changed[:, :100].any() and changed[:, 100:].any()
    assert (drawn > 250).all(-1).sum() > 50  # white squares
    assert "draw_texts" not in vars(visualizer)


def test_names_of_the_checkpoint(messages):
    meta = dict(classes=("a", "b"), palette=[[0, 0, 0], [1, 1, 1]])
    assert use_trained_names(meta, dict(classes=["a", "b"])) is meta
    assert use_trained_names(meta, {}) is meta and messages == []
    assert use_trained_names({}, dict(classes=["b", "a"]))["classes"] == ["b", "a"] and messages == []
    assert use_trained_names(meta, dict(classes=["b", "a"]))["classes"] == ["b", "a"]
    (message,) = messages
    assert "class names (2: a, b) are not those that the checkpoint was trained with (2: b, a)" in message
    assert use_trained_names(dict(keypoint_id2name={0: "nose"}), dict(keypoint_id2name={0: "ear"})) == dict(
        keypoint_id2name={0: "ear"}
    )
    assert "keypoint names" in messages[1]


def test_meta_of_old_checkpoints():
    assert get_trained_meta(dict(meta=dict(CLASSES=("a",), PALETTE=[[1, 2, 3]]))) == dict(
        classes=("a",), palette=[[1, 2, 3]]
    )
    assert get_trained_meta({}) == {} and get_trained_meta(dict(meta=None)) == {}


def test_inferencer(tmp_path, messages):
    cfg = get_config("cls/van_b0_in1k")
    state = build_random_model(cfg).state_dict()
    names = [f"thing {i}" for i in range(1000)]
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=names))), tmp_path / "model.pth")
    inferencer = Inferencer(cfg, build_model(cfg, str(tmp_path / "model.pth")))
    best = inferencer(np.zeros((64, 64, 3), np.uint8)).top[0]
    assert best.name == f"thing {best.index}"
    (message,) = messages
    assert "1000: tench" in message and "thing 0" in message


def test_test_draws_the_checkpoints_names(run_tool, demo_root, tmp_path):
    """The predicted panel has the names of the checkpoint, and a warning names both lists."""
    cfg = get_config("seg/semantic_fpn_van_b0")
    names = [f"thing {i}" for i in range(150)]
    palette = [[i, 255 - i, 7] for i in range(150)]
    meta = dict(dataset_meta=dict(classes=names, palette=palette))
    torch.save(dict(state_dict=build_random_model(cfg).state_dict(), meta=meta), tmp_path / "model.pth")
    args = ("seg/semantic_fpn_van_b0", tmp_path / "model.pth", "--demo", "--demo-root", demo_root)
    done = run_tool("test", *args, "--show-dir", tmp_path / "shown")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("are not those that the checkpoint was trained with (150: thing 0, thing 1") == 1
    assert cv2.imread(str(next((tmp_path / "shown").glob("*.png")))) is not None
