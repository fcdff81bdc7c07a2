"""Published weights of LSKNet and LSKA load by name, from files of the published structure."""

import re

import pytest
import torch
from mmengine.runner import load_checkpoint

from tests.checkpoints.test_download import server, to_bytes  # noqa: F401
from tests.checkpoints.test_loading import randomise
from van_mm import VAN, load_van_weights, swap_backbone
from van_mm.apis.configs import get_config
from van_mm.checkpoints.io import MODEL_ZOO, get_cache_path
from van_mm.checkpoints.key_maps import to_layout
from van_mm.checkpoints.loading import describe_backbone, match_state_dict
from van_mm.utils.errors import WeightsError

LSKNET = {
    "lsknet_t": dict(widths=[32, 64, 160, 256], depths=[3, 3, 5, 2], keys=478),
    "lsknet_s": dict(widths=[64, 128, 320, 512], depths=[2, 2, 4, 2], keys=376),
}


def make_lsknet_state(arch: str, prefix: str = "") -> dict:
    """Return random weights with the keys and shapes of the published files, written down without this package."""
    torch.manual_seed(0)
    state, before = {}, 3

    def add(name: str, *shape: int) -> None:
        state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"] = (
            torch.randn(shape) * 0.02,
            torch.randn(shape[0]),
        )

    def add_norm(name: str, c: int) -> None:
        add(name, c)
        state[f"{prefix}{name}.running_mean"], state[f"{prefix}{name}.running_var"] = torch.randn(c), torch.rand(c)
        state[f"{prefix}{name}.num_batches_tracked"] = torch.tensor(375300)

    for i, (c, depth) in enumerate(zip(LSKNET[arch]["widths"], LSKNET[arch]["depths"], strict=True), 1):
        kernel, hidden = (7 if i == 1 else 3), c * (8 if i < 3 else 4)
        add(f"patch_embed{i}.proj", c, before, kernel, kernel)
        add_norm(f"patch_embed{i}.norm", c)
        for j in range(depth):
            block, unit = f"block{i}.{j}", f"block{i}.{j}.attn.spatial_gating_unit"
            for number in (1, 2):
                state[f"{prefix}{block}.layer_scale_{number}"] = torch.rand(c)
                add_norm(f"{block}.norm{number}", c)
                add(f"{block}.attn.proj_{number}", c, c, 1, 1)
            add(f"{unit}.conv0", c, 1, 5, 5)
            add(f"{unit}.conv_spatial", c, 1, 7, 7)
            add(f"{unit}.conv1", c // 2, c, 1, 1)
            add(f"{unit}.conv2", c // 2, c, 1, 1)
            add(f"{unit}.conv_squeeze", 2, 2, 7, 7)
            add(f"{unit}.conv", c, c // 2, 1, 1)
            add(f"{block}.mlp.fc1", hidden, c, 1, 1)
            add(f"{block}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
            add(f"{block}.mlp.fc2", c, hidden, 1, 1)
        add(f"norm{i}", c)
        before = c
    assert len(state) == LSKNET[arch]["keys"]  # of the published files
    return state


@pytest.mark.parametrize("arch", LSKNET)
def test_lsknet_loads_by_name(arch, server, tmp_path, monkeypatch):  # noqa: F811
    state = make_lsknet_state(arch)
    detector = make_lsknet_state(arch, "backbone.") | {
        "neck.lateral_convs.0.conv.weight": torch.rand(256, 32, 1, 1),
        "ema_backbone_patch_embed1_proj_weight": torch.rand(3),  # mmcv's EMAHook, in the authors' EMA file
    }
    contents = {
        "in1k": dict(state_dict=state | {"head.weight": torch.rand(1000, 4), "head.bias": torch.rand(1000)}, epoch=299),
        "dota": dict(meta=dict(mmrotate_version="0.3.2", CLASSES=("plane",)), state_dict=detector),
    }
    for kind, content in contents.items():
        row = MODEL_ZOO[f"{arch}_{kind}"]
        assert "-" in row["url"].rpartition("/")[2]  # a hash, which the download checks
        assert row["size_mb"] == pytest.approx(sum(v.numel() * v.element_size() for v in state.values()) / 1e6, abs=0.1)
        server.files[f"/{kind}.pth"] = to_bytes(content, tmp_path)
        monkeypatch.setitem(MODEL_ZOO, f"{arch}_{kind}", row | dict(url=f"{server.url}/{kind}.pth"))
        model = VAN(arch, init_cfg=dict(type="Pretrained", checkpoint=f"van_mm://{arch}_{kind}"))
        model.init_weights()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        load_van_weights(VAN(arch), f"van_mm://{arch}_{kind}")


def to_lska_mm_key(key: str) -> str:
    """Return the name of a parameter in LSKA's detectors and segmentors (mmdetection/, mmsegmentation/van.py)."""
    for old, new in (
        (r"^block(\d)", r"blocks\1"),
        (r"\.proj\.", ".projection."),
        (r"conv0([hv])", r"DW_conv_\1"),
        ("conv_spatial_", "DW_D_conv_"),
        (r"dwconv\.dwconv", "dwconv"),
    ):
        key = re.sub(old, new, key)
    return key


def test_lska_loads_in_both_layouts(tmp_path):
    source = randomise(VAN("b0", lka_cfg=dict(type="LSKA"))).state_dict()
    official = source | {"head.weight": torch.rand(1000, 256), "head.bias": torch.rand(1000)}
    mm = {f"backbone.{to_lska_mm_key(key)}": value for key, value in source.items()}
    assert "backbone.blocks1.0.attn.spatial_gating_unit.DW_D_conv_v.weight" in mm
    for state in (official, mm):
        torch.save(dict(state_dict=state), tmp_path / "w.pth")
        for load in (load_van_weights, load_checkpoint):
            model = VAN("b0", lka_cfg=dict(type="LSKA"))
            load(model, str(tmp_path / "w.pth"))
            assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())


def test_lska_weights_are_downloaded_in_a_browser(server, monkeypatch):  # noqa: F811
    """The authors share a folder, so the message says where to put a file, and the file is then used."""
    server.files["/folder"] = b"<!DOCTYPE html><title>OneDrive</title>"
    row = MODEL_ZOO["lska_b0_in1k"]
    monkeypatch.setitem(MODEL_ZOO, "lska_b0_in1k", row | dict(url=f"{server.url}/folder#b0"))
    model = VAN("b0", lka_cfg=dict(type="LSKA"))
    with pytest.raises(WeightsError, match="web page.*in a browser, and put it at .*van_lska_b0.pth.tar"):
        load_van_weights(model, "van_mm://lska_b0_in1k")
    torch.save(dict(state_dict=randomise(VAN("b0", lka_cfg=dict(type="LSKA"))).state_dict()),
               get_cache_path(f"{server.url}/folder#b0"))  # fmt: skip
    load_van_weights(model, "van_mm://lska_b0_in1k")
    assert len({get_cache_path(MODEL_ZOO[f"lska_{size}_in1k"]["url"]) for size in ("b0", "b1", "b2")}) == 3


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (dict(arch="lsknet_s"), "LSKNet-S"),
        (dict(arch="b0", lka_cfg=dict(type="LSKA")), "VAN-B0 with LSKA"),
        (dict(arch="b0", lka_cfg=dict(type="MSCA")), "VAN-B0 with MSCA"),
        (dict(arch="b0", lka_cfg=dict(type="DeformableLKA")), "VAN-B0 with DeformableLKA"),
    ],
)
def test_messages_name_the_attention_module(options, name):
    weights = VAN(**options).state_dict()
    assert describe_backbone(weights) == name
    with pytest.raises(WeightsError, match=f"these are {name} weights, the model is VAN-B1"):
        match_state_dict(VAN("b1"), weights)
    for layout in ("mmpretrain", "huggingface"):
        with pytest.raises(WeightsError, match=f"{layout} lacks"):
            to_layout(weights, {}, layout)
    assert to_layout(weights, {}, "official") == weights


def test_swap_to_and_from_lsknet():
    cfg = get_config("det/mask_rcnn_van_b0_1x_coco")
    changes = "\n".join(swap_backbone(cfg, "lsknet_s"))
    assert "LSKNet-S" in changes
    assert cfg.model.backbone.init_cfg.checkpoint == "van_mm://lsknet_s_in1k"
    assert list(cfg.model.neck.in_channels) == [64, 128, 320, 512]
    cfg.model.backbone.lka_cfg = dict(type="LSKA")
    assert swap_backbone(cfg, "b1")
    assert "lka_cfg" not in cfg.model.backbone and cfg.model.backbone.init_cfg.checkpoint == "van_mm://b1_in1k"
    cfg.model.backbone.lka_cfg = dict(sigmoid=True)
    assert swap_backbone(cfg, "b1") == [] and "lka_cfg" in cfg.model.backbone
