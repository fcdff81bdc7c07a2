"""The loading functions of mmengine and PyTorch accept VAN weights in every layout, without a hook in the config."""

import copy

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from safetensors.torch import save_file

from tests.checkpoints.test_loading import SMALL, X, classifier, logits, official, randomise
from van_mm.checkpoints.key_maps import split_state_dict, to_layout, to_official_key
from van_mm.models.backbones.van import VAN
from van_mm.utils.errors import WeightsError

LAYOUTS = ("van_mm", "official", "mmpretrain", "huggingface")
CONTAINERS = {
    "bare": lambda state: state,
    "state_dict": lambda state: dict(meta={}, state_dict=state),
    "model": lambda state: dict(model=state, epoch=3),
    "state_dict_ema": lambda state: dict(state_dict_ema=state),
    "wrapped": lambda state: {f"module.{key}": value for key, value in state.items()},
}


def write(folder, model, layout, container):
    file = folder / "weights.pth"
    torch.save(CONTAINERS[container](to_layout(*split_state_dict(model.state_dict()), layout)), file)
    return str(file)


@pytest.fixture(scope="module")
def source():
    return randomise(classifier())


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mmengine_loads_a_classifier(layout, container, source, tmp_path):
    model = classifier()
    load_checkpoint(model, write(tmp_path, source, layout, container))
    assert torch.equal(logits(model, X), logits(source, X))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mmengine_loads_a_backbone(layout, container, source, tmp_path):
    """``init_cfg`` loads a backbone from the checkpoint of a complete classifier."""
    file = write(tmp_path, source, layout, container)
    model = VAN(arch=SMALL, init_cfg=dict(type="Pretrained", checkpoint=file))
    model.init_weights()
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_loads_strictly(layout, source):
    model = classifier()
    state = to_layout(*split_state_dict(source.state_dict()), layout)
    before = dict(state)
    model.load_state_dict(state)
    assert torch.equal(logits(model, X), logits(source, X))
    assert state.keys() == before.keys()  # the dict of the caller is not changed


def test_safetensors(source, tmp_path):
    model = classifier()
    save_file(official(source), tmp_path / "van.safetensors")
    load_checkpoint(model, str(tmp_path / "van.safetensors"))
    assert torch.equal(logits(model, X), logits(source, X))


def test_nested_models_and_copies(source):
    """A deep copy of a model, which EMA makes, loads as part of another model."""
    outer = torch.nn.ModuleDict(dict(teacher=copy.deepcopy(classifier())))
    state = {f"teacher.{key}": value for key, value in official(source).items()}
    outer.load_state_dict(state)
    assert torch.equal(logits(outer["teacher"], X), logits(source, X))


@pytest.mark.parametrize("load", [load_state_dict, lambda model, state: model.load_state_dict(state, strict=False)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("block1.0.mlp.fc1.bias"), r"1 missing \(block1.0.mlp.fc1.bias\)"),
        (lambda s: s.update({"block1.0.extra": torch.ones(1)}), r"1 unexpected \(block1.0.extra\)"),
        (lambda s: s.update({"norm4.bias": torch.ones(31)}), r"1 of another shape \(norm4.bias \(31,\) for \(32,\)\)"),
        (lambda s: s.update({"norm4.bias": torch.full((32,), torch.nan)}), "1 with NaN or infinite values"),
    ],
    ids=["missing", "unexpected", "shape", "nan"],
)
def test_incomplete_backbone_is_refused(change, message, load, source):
    """A VAN and a classifier refuse an incomplete backbone, although mmengine loads with strict=False."""
    state = official(source)
    change(state)
    for model in (VAN(arch=SMALL), classifier()):
        with pytest.raises(WeightsError, match=message):
            load(model, dict(state))


def test_weights_of_another_size_are_refused_by_init_cfg(tmp_path):
    """Weights of a shallower VAN are refused. As for B2 and B3, the two sizes differ only in depth."""
    torch.save(VAN(arch=SMALL).state_dict(), tmp_path / "van.pth")
    deeper = dict(SMALL, depths=[1, 2, 2, 1])
    model = VAN(arch=deeper, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "van.pth")))
    with pytest.raises(WeightsError, match=r"not of this VAN.*missing \(block3\.1\."):
        model.init_weights()


def test_state_dict_without_a_backbone_loads(source):
    """A state dict with only the head loads, as in linear probing, and keeps the backbone."""
    model = classifier()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model.load_state_dict({"head.fc.weight": source.head.fc.weight}, strict=False)
    assert torch.equal(model.head.fc.weight, source.head.fc.weight)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


def test_key_of_huggingface():
    key = "van.encoder.stages.0.layers.2.mlp_scaling.weight"
    assert to_official_key(key) == "block1.2.layer_scale_2"
