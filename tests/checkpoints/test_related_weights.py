"""Weights of a related model load as far as they fit; weights that do not belong to the model are refused."""

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from tests.checkpoints.test_loading import SMALL, classifier, official, randomise
from van_mm import get_config
from van_mm.apis.build import build_random_model
from van_mm.checkpoints.loading import load_van_weights, match_complete_state_dict, match_state_dict
from van_mm.models.backbones.van import VAN
from van_mm.utils.errors import UserError, WeightsError


@pytest.fixture
def report(monkeypatch):
    """Return the list of messages about weights."""
    from van_mm.checkpoints import key_maps, loading

    messages = []
    for module in (loading, key_maps):
        monkeypatch.setattr(module, "print_log", lambda message, *args, **kwargs: messages.append(message))
    return messages


def segmentor(head: dict, backbone: dict | None = None) -> torch.nn.Module:
    init_default_scope("mmseg")
    backbone = dict(type="van_mm.VAN", arch=SMALL) | (backbone or {})
    return randomise(MODELS.build(dict(type="mmseg.EncoderDecoder", backbone=backbone, decode_head=head)))


def upernet(classes: int = 4) -> torch.nn.Module:
    channels = dict(in_channels=[8, 16, 24, 32], in_index=[0, 1, 2, 3], channels=8, num_classes=classes)
    return segmentor(dict(type="UPerHead", **channels))


def fcn(classes: int = 4, **backbone) -> torch.nn.Module:
    head = dict(type="FCNHead", in_channels=32, in_index=3, channels=8, num_classes=classes)
    return segmentor(head, backbone)


def detector(kind: str, classes: int = 3) -> torch.nn.Module:
    """Build a small two-stage detector, 'mask-rcnn' or 'faster-rcnn'."""
    cfg = get_config("det/mask_rcnn_van_b0_1x_coco")
    cfg.model.backbone.update(arch=SMALL, init_cfg=None)
    cfg.model.neck.update(in_channels=[8, 16, 24, 32], out_channels=8)
    cfg.model.rpn_head.update(in_channels=8, feat_channels=8)
    heads = cfg.model.roi_head
    heads.bbox_roi_extractor.out_channels = 8
    heads.bbox_head.update(in_channels=8, fc_out_channels=8, num_classes=classes)
    heads.mask_roi_extractor.out_channels = 8
    heads.mask_head.update(in_channels=8, conv_out_channels=8, num_classes=classes)
    if kind == "faster-rcnn":
        cfg.model.type = "mmdet.FasterRCNN"
        for key in ("mask_head", "mask_roi_extractor"):
            heads.pop(key)
    return randomise(build_random_model(cfg))


def test_mask_rcnn_into_faster_rcnn(report):
    source, model = detector("mask-rcnn"), detector("faster-rcnn", classes=5)
    model.load_state_dict(match_state_dict(model, source.state_dict()), strict=False)
    assert torch.equal(model.neck.fpn_convs[0].conv.weight, source.neck.fpn_convs[0].conv.weight)
    assert torch.equal(model.roi_head.bbox_head.shared_fcs[0].weight, source.roi_head.bbox_head.shared_fcs[0].weight)
    (message,) = report
    assert "4 left out for another shape (roi_head.bbox_head.fc_cls.weight (4, 8) for (6, 8)" in message
    assert "12 left out as no part of this model (roi_head.mask_head" in message
    assert len(message) < 900


def test_upernet_into_another_head(report):
    source, model = upernet(), fcn()
    own = model.decode_head.convs[0].conv.weight.clone()
    model.load_state_dict(match_state_dict(model, dict(state_dict=source.state_dict())), strict=False)
    assert torch.equal(model.backbone.norm4.weight, source.backbone.norm4.weight)
    assert torch.equal(model.decode_head.convs[0].conv.weight, own)
    (message,) = report
    assert "left out as no part of this model" in message and "not in the file and left as initialized" in message


def test_upstreams_own_renaming_is_kept(report):
    """MMDetection renames the head of a region proposal network when it loads it into a two-stage detector."""
    model = detector("faster-rcnn")
    source = {key.replace("rpn_head.", "bbox_head."): value for key, value in model.state_dict().items()}
    source = {key: value + 1 for key, value in source.items() if not key.startswith("roi_head")}
    matched = match_state_dict(model, source)
    assert torch.equal(matched["rpn_head.rpn_cls.weight"], source["bbox_head.rpn_cls.weight"])


def test_what_does_not_belong_is_refused(report):
    model = fcn()
    before = copy.deepcopy(model.state_dict())
    other_size = segmentor(
        dict(type="FCNHead", in_channels=24, in_index=2, channels=8, num_classes=4),
        dict(arch=dict(embed_dims=[8, 16, 24, 48], depths=[1, 2, 1, 1], mlp_ratios=[2, 2, 2, 2])),
    )
    with pytest.raises(WeightsError, match="of 176 keys of the backbone"):
        match_state_dict(model, other_size.state_dict())
    with pytest.raises(WeightsError, match="no VAN weights"):
        match_state_dict(model, {"decode_head.conv_seg.weight": torch.ones(4, 8, 1, 1)})
    with pytest.raises(WeightsError, match="NaN or infinite"):
        match_state_dict(model, model.state_dict() | {"decode_head.conv_seg.bias": torch.full((4,), torch.nan)})
    resnet = MODELS.build(dict(type="mmseg.EncoderDecoder", backbone=dict(type="ResNet", depth=18), decode_head=dict(
        type="FCNHead", in_channels=512, in_index=3, channels=8, num_classes=4)))  # fmt: skip
    with pytest.raises(WeightsError, match="none of its .* weights fits the backbone of this EncoderDecoder"):
        match_state_dict(resnet, model.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_resume_and_test_stay_strict(report):
    model, other = fcn(classes=4), fcn(classes=6)
    with pytest.raises(UserError, match=r"2 of another shape \(decode_head.conv_seg.weight"):
        match_complete_state_dict(model, dict(state_dict=other.state_dict()), "other.pth")
    with pytest.raises(UserError, match="missing.*unexpected"):
        match_complete_state_dict(model, dict(state_dict=upernet().state_dict()), "other.pth")
    with pytest.raises(UserError, match="of another shape .*patch_embed1.proj.weight"):
        match_complete_state_dict(fcn(in_channels=4), dict(state_dict=model.state_dict()), "other.pth")
    assert report == []


def test_load_from_through_the_tool(run_tool, demo_root, tmp_path):
    """``load_from`` of another head and class count trains, with one message; another size is refused early."""
    source = build_random_model(get_config("seg/upernet_van_b0"))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / "upernet.pth")
    args = ("seg/semantic_fpn_van_b0", "--demo", "--demo-root", demo_root, "--demo-iters", 1, "--no-validate")
    done = run_tool("train", *args, "--cfg-options", f"load_from={tmp_path / 'upernet.pth'}")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("left out as no part of this model") == 1
    assert "do not match exactly" not in done.stdout
    torch.save(VAN(arch="b1").state_dict(), tmp_path / "b1.pth")
    done = run_tool("train", *args, "--cfg-options", f"load_from={tmp_path / 'b1.pth'}")
    assert done.returncode and "these are VAN-B1 weights, the model is VAN-B0" in done.stdout


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_input_channels(channels, report, tmp_path):
    """A gray image gives the same features in every number of channels, from init_cfg and from load_van_weights."""
    source = randomise(classifier())
    torch.save(official(source), tmp_path / "rgb.pth")
    gray = torch.rand(1, 1, 48, 48)
    expected = source.backbone(gray.expand(-1, 3, -1, -1))[-1]
    loaded = VAN(arch=SMALL, in_channels=channels).eval()
    load_van_weights(loaded, tmp_path / "rgb.pth")
    pretrained = dict(type="Pretrained", checkpoint=str(tmp_path / "rgb.pth"))
    initialized = VAN(arch=SMALL, in_channels=channels, init_cfg=pretrained).eval()
    initialized.init_weights()
    inside = fcn(in_channels=channels, init_cfg=pretrained)
    inside.init_weights()
    for model in (loaded, initialized, inside.backbone.eval()):
        out = model(gray.expand(-1, channels, -1, -1))[-1]
        repeated = 1 if channels == 1 or channels % 3 == 0 else None
        if repeated:
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
        assert out.isfinite().all()
    weight, rgb = loaded.patch_embed1.proj.weight, source.backbone.patch_embed1.proj.weight
    wanted = rgb.sum(1, keepdim=True) if channels == 1 else rgb.repeat(1, 3, 1, 1)[:, :channels] * 3 / channels
    torch.testing.assert_close(weight, wanted)
    assert len(report) == 3 and all(f"from 3 to {channels} input channels" in message for message in report)


def test_strict_loading_is_not_adapted():
    with pytest.raises(WeightsError, match="of another shape"):
        VAN(arch=SMALL, in_channels=4).load_state_dict(VAN(arch=SMALL).state_dict())
