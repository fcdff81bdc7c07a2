"""The ONNX export gives the outputs of the PyTorch model."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from tests.models.utils.test_fold import stir_norms
from van_mm import get_config
from van_mm.apis.export import AnySizePool

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 24), (31, 100)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6, (3, 4)])
def test_any_size_pool_equals_adaptive_pool(size, bins):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(AnySizePool(bins)(x), nn.AdaptiveAvgPool2d(bins)(x), rtol=1e-5, atol=1e-6)


def save_random_checkpoint(name: str, path) -> nn.Module:
    """Save a random checkpoint of a config's model, with norm statistics that folding must handle. Return the model."""
    cfg = get_config(name)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    if "data_preprocessor" in cfg:
        cfg.model.data_preprocessor = cfg.data_preprocessor
    torch.manual_seed(0)
    model = stir_norms(MODELS.build(cfg.model))
    torch.save(dict(state_dict=model.state_dict()), path)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "size", "outputs"),
    [
        ("cls/van_b0_in1k", (64, 64), ["scores"]),
        ("seg/upernet_van_b0", (64, 96), ["logits"]),
        ("seg/semantic_fpn_van_b0", (64, 96), ["logits"]),
        ("pose/simplebaseline_van_b2_coco_256x192", (256, 192), ["heatmaps"]),
        ("det/retinanet_van_b0_1x_coco", (64, 96), [f"level{i}" for i in range(5)]),
    ],
)
def test_export(name, size, outputs, run_tool, tmp_path):
    """The exported file takes BGR images as float32 and gives the outputs of the model."""
    model = save_random_checkpoint(name, tmp_path / "w.pth")
    done = run_tool("deploy/export_onnx", name, tmp_path / "w.pth", "--out", tmp_path / "o.onnx", "--size", *size)
    assert done.returncode == 0 and "onnxruntime differs by" in done.stdout, done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "o.onnx")
    assert [output.name for output in session.get_outputs()] == outputs
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)  # BGR, the order of cv2
    outs = session.run(None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32)})
    mean, std = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]) if name[:3] != "cls" else (127.5, 127.5)
    normalized = (image[..., ::-1] - np.array(mean)) / np.array(std)
    x = torch.from_numpy(normalized.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = model.extract_feat(x) if name.startswith("det") else [model(x, None, mode="tensor")]
    if name.startswith("cls"):
        expected = [expected[0].softmax(1)]
    if name.startswith("seg"):
        expected = [nn.functional.interpolate(expected[0], size, mode="bilinear")]
    for out, value in zip(outs, expected, strict=True):
        assert out.shape == tuple(value.shape)
        assert np.abs(out - value.numpy()).max() < 1e-4 * value.abs().max()


def test_refused_export_keeps_the_old_file(run_tool, tmp_path):
    save_random_checkpoint("cls/van_b0_in1k", tmp_path / "w.pth")
    out = tmp_path / "o.onnx"
    out.write_text("earlier")
    for arguments, message in (
        (["cls/van_b1_in1k", tmp_path / "w.pth"], "not of this config's model"),
        (["cls/van_b0_in1k", tmp_path / "none.pth"], "none.pth"),
        (["cls/van_b0_in1k", tmp_path / "w.pth", "--size", 16, 64], "32 or more"),
    ):
        done = run_tool("deploy/export_onnx", *arguments, "--out", out)
        assert done.returncode == 1 and message in done.stdout, done.stdout
        assert out.read_text() == "earlier" and not list(tmp_path.glob(".*draft"))
