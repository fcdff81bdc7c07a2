"""VAN weights in any layout load into any model."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT
from van_mm.checkpoints import loading
from van_mm.checkpoints.key_maps import split_state_dict, to_layout
from van_mm.checkpoints.loading import load_van_weights, match_state_dict
from van_mm.models.backbones.van import ARCH_SETTINGS, VAN, format_arch
from van_mm.utils.errors import WeightsError

SMALL = dict(embed_dims=[8, 16, 24, 32], depths=[1, 2, 1, 1], mlp_ratios=[2, 2, 2, 2])


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Set every parameter and statistic to different values, so that swapped keys change the output."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_var" in name or value.dim() == 1 else value.normal_(0, 0.2)
    return model.eval()


def classifier(classes: int = 5, backbone: str = "van_mm.VAN") -> torch.nn.Module:
    init_default_scope("mmpretrain")
    arch = (
        SMALL
        if backbone == "van_mm.VAN"
        else dict(embed_dims=[8, 16, 24, 32], depths=[1, 2, 1, 1], ffn_ratios=[2, 2, 2, 2])
    )
    options = dict(out_indices=(3,)) if backbone == "van_mm.VAN" else dict(norm_cfg=dict(type="LN", eps=1e-6))
    return MODELS.build(
        dict(
            type="mmpretrain.ImageClassifier",
            backbone=dict(type=backbone, arch=arch, **options),
            neck=dict(type="mmpretrain.GlobalAveragePooling"),
            head=dict(type="mmpretrain.LinearClsHead", num_classes=classes, in_channels=32),
        )
    ).eval()


def logits(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model.extract_feat(x))


X = torch.linspace(-1, 1, 3 * 40 * 56).reshape(1, 3, 40, 56)


def test_huggingface():
    """A VanForImageClassification saved by transformers 4.30.2 gives the logits that are stored with it."""
    path = ROOT / "tests/data/huggingface_van.safetensors"
    state = load_file(path)
    x, expected = state.pop("input"), state.pop("logits")
    model = classifier()
    model.load_state_dict(match_state_dict(model, state))
    torch.testing.assert_close(logits(model, x), expected, rtol=1e-5, atol=1e-5)


def test_huggingface_backbone_without_prefix(tmp_path):
    state = load_file(ROOT / "tests/data/huggingface_van.safetensors")
    bare = {k.removeprefix("van."): v for k, v in state.items() if k.startswith("van.")}
    torch.save(bare, tmp_path / "pytorch_model.bin")
    model = VAN(arch=SMALL)
    load_van_weights(model, tmp_path / "pytorch_model.bin")
    assert torch.equal(model.block2[1].mlp.fc2.weight, state["van.encoder.stages.1.layers.1.mlp.out_dense.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_mmpretrain_classifier(tmp_path, suffix):
    source = randomise(classifier(backbone="mmpretrain.VAN"))
    file = tmp_path / f"van{suffix}"
    if suffix == ".pth":
        torch.save(dict(meta={}, state_dict=source.state_dict()), file)
    else:
        save_file(source.state_dict(), file)
    model = classifier()
    load_van_weights(model, file)
    torch.testing.assert_close(logits(model, X), logits(source, X), rtol=1e-5, atol=1e-5)


def official(model: torch.nn.Module) -> dict:
    """Return the weights of a classifier in the layout of the authors' files."""
    return to_layout(*split_state_dict(model.state_dict()), "official")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: dict(state_dict=state, epoch=300, arch="van_tiny"),
        lambda state: state,
        lambda state: dict(model=state),
        lambda state: dict(state_dict={f"module.{k}": v for k, v in state.items()}),
        lambda state: dict(state_dict_ema=OrderedDict(state)),
        lambda state: {f"ema_model.module.{k}": v for k, v in state.items()},
    ],
)
def test_official_files(tmp_path, wrap):
    source = randomise(classifier())
    state = official(source)
    assert {"head.weight", "head.bias", "block1.0.attn.spatial_gating_unit.conv0.weight"} <= set(state)
    torch.save(wrap(state), tmp_path / "van.pth.tar")
    model = classifier()
    load_van_weights(model, tmp_path / "van.pth.tar")
    assert torch.equal(logits(model, X), logits(source, X))


def test_backbone_loads_from_classifiers_of_all_layouts(tmp_path):
    source = randomise(classifier())
    for family in ("van_mm", "official", "mmpretrain", "huggingface"):
        torch.save(to_layout(*split_state_dict(source.state_dict()), family), tmp_path / "w.pth")
        model = VAN(arch=SMALL, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth")))
        model.init_weights()
        for key, value in model.state_dict().items():
            assert torch.equal(value, source.state_dict()[f"backbone.{key}"]), (family, key)


@pytest.mark.parametrize("family", ["van_mm", "official", "mmpretrain", "huggingface"])
def test_round_trips_are_exact(family):
    backbone, rest = split_state_dict(randomise(classifier()).state_dict())
    back = split_state_dict(to_layout(backbone, rest, family))
    for before, after in zip((backbone, rest), back, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_segmentor_loads_backbone_of_detector(tmp_path):
    """``init_cfg`` initializes a segmentor from a detector's checkpoint that mmengine saved."""
    source = randomise(VAN(arch=SMALL))
    state = {f"backbone.{k}": v for k, v in source.state_dict().items()} | {"bbox_head.cls.weight": torch.ones(3, 3)}
    torch.save(dict(meta=dict(epoch=1), state_dict=state, optimizer={}), tmp_path / "detector.pth")
    init_default_scope("mmseg")
    segmentor = MODELS.build(
        dict(
            type="mmseg.EncoderDecoder",
            backbone=dict(
                type="van_mm.VAN",
                arch=SMALL,
                init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "detector.pth")),
            ),
            decode_head=dict(type="mmseg.FCNHead", in_channels=32, in_index=3, channels=8, num_classes=4),
        )
    )
    segmentor.init_weights()
    assert torch.equal(segmentor.backbone.block3[0].layer_scale_1, source.block3[0].layer_scale_1)
    other = randomise(
        MODELS.build(
            dict(
                type="mmseg.EncoderDecoder",
                backbone=dict(type="van_mm.VAN", arch=SMALL),
                decode_head=dict(type="mmseg.FCNHead", in_channels=32, in_index=3, channels=8, num_classes=4),
            )
        )
    )
    load_van_weights(segmentor, _saved(tmp_path, other.state_dict()))
    assert torch.equal(segmentor.decode_head.conv_seg.weight, other.decode_head.conv_seg.weight)


def _saved(folder: Path, content) -> Path:
    torch.save(content, folder / "saved.pth")
    return folder / "saved.pth"


def test_head_with_other_class_count_is_skipped_with_one_warning(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(loading, "print_log", lambda message, *args, **kwargs: messages.append(message))
    source, model = randomise(classifier(classes=5)), classifier(classes=7)
    before = model.head.fc.weight.clone()
    load_van_weights(model, _saved(tmp_path, official(source)))
    assert torch.equal(model.head.fc.weight, before)
    assert torch.equal(model.backbone.norm4.weight, source.backbone.norm4.weight)
    (message,) = messages
    assert "2 left out for another shape (head.fc.weight (5, 32) for (7, 32), head.fc.bias (5,) for (7,))" in message


@pytest.fixture(scope="module")
def every_size():
    with torch.device("meta"):
        return {name: VAN(arch=name) for name in ARCH_SETTINGS}


@pytest.mark.parametrize(
    ("source_arch", "model_arch"),
    [(a, b) for a in ARCH_SETTINGS for b in ("b0", "b1", "b3", "b6", "lsknet_t") if a != b],
)
def test_message_names_both_sizes(source_arch, model_arch, every_size):
    source = {key: torch.zeros(()).expand(value.shape) for key, value in every_size[source_arch].state_dict().items()}
    message = f"these are {format_arch(source_arch)} weights, the model is {format_arch(model_arch)}"
    with pytest.raises(WeightsError, match=message):
        match_state_dict(every_size[model_arch], source)


def test_refused_weights_leave_the_model_unchanged(tmp_path):
    state = official(randomise(classifier()))
    for change, message in (
        (lambda s: s.pop("block1.0.mlp.fc1.bias"), r"1 missing \(block1.0.mlp.fc1.bias\)"),
        (lambda s: s.update({"block1.0.extra": torch.ones(1)}), r"1 unexpected \(block1.0.extra\)"),
        (
            lambda s: s.update({"norm4.bias": torch.full((32,), torch.nan)}),
            r"1 with NaN or infinite values \(norm4.bias\)",
        ),
    ):
        broken = dict(state)
        change(broken)
        model = randomise(VAN(arch=SMALL))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(WeightsError, match=message):
            load_van_weights(model, _saved(tmp_path, broken))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(WeightsError, match="holds no VAN weights"):
        load_van_weights(VAN(arch=SMALL), _saved(tmp_path, {"layer1.0.conv1.weight": torch.ones(1)}))
    with pytest.raises(WeightsError, match="no VAN backbone"):
        load_van_weights(torch.nn.Linear(1, 1), _saved(tmp_path, state))
