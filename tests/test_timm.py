"""timm and segmentation_models_pytorch build VAN and LSKNet by name, load weights and train."""

import pytest
import torch

from tests.checkpoints.test_download import make_official_file, server, to_bytes  # noqa: F401
from tests.checkpoints.test_relatives import make_lsknet_state
from van_mm import VAN
from van_mm.checkpoints.io import MODEL_ZOO
from van_mm.models.backbones.van import ARCH_SETTINGS

timm = pytest.importorskip("timm", minversion="1.0")
van_timm = pytest.importorskip("van_mm.timm")


def serve(server, monkeypatch, name: str, content: bytes) -> None:  # noqa: F811
    """Serve a file in place of published weights."""
    server.files[f"/{name}.pth"] = content
    monkeypatch.setitem(MODEL_ZOO, name, MODEL_ZOO[name] | dict(url=f"{server.url}/{name}.pth"))


def test_names_and_published_weights():
    names = {f"van_{arch}" for arch in ("b0", "b1", "b2", "b3", "b4", "b5", "b6")} | {"lsknet_t", "lsknet_s"}
    assert names == set(timm.list_models(["van_b*", "lsknet*"]))
    assert {van_timm.get_model_name(arch) for arch in ARCH_SETTINGS} == names
    assert {f"{name}.in1k" for name in names - {"van_b5", "van_b6"}} <= set(timm.list_pretrained())
    assert {"van_b4.in22k", "van_b5.in22k", "lsknet_s.dota"} <= set(timm.list_pretrained())
    cfg = timm.get_pretrained_cfg("van_b2")
    assert cfg.tag == "in1k" and cfg.num_classes == 1000 and cfg.url == MODEL_ZOO["b2_in1k_cls"]["url"]
    assert (cfg.mean, cfg.std, cfg.crop_pct, cfg.input_size) == ((0.5,) * 3, (0.5,) * 3, 0.9, (3, 224, 224))
    resolved = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("lsknet_t").to_dict())
    assert resolved["mean"] == (0.485, 0.456, 0.406) and resolved["interpolation"] == "bicubic"


@torch.no_grad()
def test_features_and_options():
    x = torch.rand(2, 4, 75, 94)
    model = timm.create_model("van_b0", features_only=True, out_indices=(-3, 2), in_chans=4).eval()
    assert model.feature_info.channels() == [64, 160] and model.feature_info.reduction() == [8, 16]
    assert [tuple(out.shape) for out in model(x)] == [(2, 64, 10, 12), (2, 160, 5, 6)]
    assert not any("block4" in name or "head" in name for name, _ in model.named_parameters())
    whole = VAN("b0", in_channels=4, out_indices=(1, 2)).eval()
    whole.load_state_dict(whole.state_dict() | model.model.backbone.state_dict())
    for out, expected in zip(model(x), whole(x), strict=True):
        assert torch.equal(out, expected)
    model = timm.create_model("van_b0", num_classes=5, global_pool="max", in_chans=4).eval()
    features = model.forward_features(x)
    torch.testing.assert_close(model(x), model.head.fc(features.amax((2, 3))))
    last, (middle,) = model.forward_intermediates(x, indices=[1])
    assert torch.equal(last, features) and middle.shape == (2, 64, 10, 12)
    assert model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)[0].equal(middle)
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    model = timm.create_model("van_b0", lka_cfg=dict(type="LSKA"))
    assert type(model.backbone.block1[0].attn.spatial_gating_unit).__name__ == "LSKA"


def test_a_step_with_recomputation_and_layer_decay():
    from timm.optim import create_optimizer_v2

    model = timm.create_model("lsknet_t", num_classes=3, drop_path_rate=0.1)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert len(scales) > 13  # the 13 blocks differ
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(model.backbone.block1[0].layer_scale_1)] == 0
    model.set_grad_checkpointing()
    before = model.head.fc.weight.clone()
    torch.nn.functional.cross_entropy(model(torch.rand(2, 3, 64, 64)), torch.tensor([0, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert not torch.equal(model.head.fc.weight, before)


def test_pretrained(server, tmp_path, monkeypatch):  # noqa: F811
    """``pretrained=True`` reads the published layouts, adapts the channels and drops a classifier of another size."""
    source = timm.create_model("van_b0")
    serve(server, monkeypatch, "b0_in1k_cls", make_official_file(source, tmp_path))
    serve(server, monkeypatch, "lsknet_t_in1k", to_bytes(dict(state_dict=make_lsknet_state("lsknet_t")), tmp_path))
    x = torch.rand(1, 3, 64, 64)
    model = timm.create_model("van_b0", pretrained=True)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), source.eval()(x))
    gray = timm.create_model("van_b0.in1k", pretrained=True, in_chans=1, num_classes=7)
    weight = model.backbone.patch_embed1.proj.weight
    torch.testing.assert_close(gray.backbone.patch_embed1.proj.weight, weight.sum(1, keepdim=True))
    assert gray(x[:, :1]).shape == (1, 7)
    for name in ("van_b0", "lsknet_t"):
        features = timm.create_model(name, pretrained=True, features_only=True)
        assert len(features(x)) == 4
    assert torch.equal(
        features.model.backbone.patch_embed1.proj.weight, make_lsknet_state("lsknet_t")["patch_embed1.proj.weight"]
    )


def test_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model = smp.Unet("tu-van_b2", encoder_weights=None, classes=3)
    assert model.encoder.out_channels == [3, 0, 64, 128, 320, 512]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, target = torch.rand(2, 3, 64, 96), torch.randint(0, 3, (2, 64, 96))
    loss = torch.nn.functional.cross_entropy(model(x), target)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert torch.nn.functional.cross_entropy(model(x), target) < loss
