"""VAN weights of any origin load into any model; files that are not weights are refused, and nothing of them runs."""

import importlib
import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import load_file, save_file
from torch.torch_version import TorchVersion

import van_mm
from van_mm import weights
from van_mm.models.van import ARCHS, VAN
from van_mm.weights import (
    TABLE,
    WeightsError,
    load_van_weights,
    match_state_dict,
    read_checkpoint,
    read_file,
    split_state_dict,
    to_family,
)

SMALL = dict(embed_dims=[8, 16, 24, 32], depths=[1, 2, 1, 1], mlp_ratios=[2, 2, 2, 2])


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter and statistic a value of its own, so that a swap would show."""
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
    """The fixture is a VanForImageClassification of transformers 4.30.2 with an input and its logits."""
    path = Path(__file__).parent / "data/huggingface_van.safetensors"
    held = load_file(path)
    x, expected = held.pop("input"), held.pop("logits")
    model = classifier()
    model.load_state_dict(match_state_dict(model, held))
    torch.testing.assert_close(logits(model, x), expected, rtol=1e-5, atol=1e-5)


def test_huggingface_van_model_without_its_prefix(tmp_path):
    held = load_file(Path(__file__).parent / "data/huggingface_van.safetensors")
    bare = {k.removeprefix("van."): v for k, v in held.items() if k.startswith("van.")}
    torch.save(bare, tmp_path / "pytorch_model.bin")
    model = VAN(arch=SMALL)
    load_van_weights(model, tmp_path / "pytorch_model.bin")
    assert torch.equal(model.block2[1].mlp.fc2.weight, held["van.encoder.stages.1.layers.1.mlp.out_dense.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_mmpretrain_classifier(tmp_path, suffix):
    theirs = randomise(classifier(backbone="mmpretrain.VAN"))
    file = tmp_path / f"van{suffix}"
    if suffix == ".pth":
        torch.save(dict(meta={}, state_dict=theirs.state_dict()), file)
    else:
        save_file(theirs.state_dict(), file)
    ours = classifier()
    load_van_weights(ours, file)
    torch.testing.assert_close(logits(ours, X), logits(theirs, X), rtol=1e-5, atol=1e-5)


def official(model: torch.nn.Module) -> dict:
    """A classifier's weights as the authors' files have them."""
    return to_family(*split_state_dict(model.state_dict()), "official")


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
    theirs = randomise(classifier())
    state = official(theirs)
    assert {"head.weight", "head.bias", "block1.0.attn.spatial_gating_unit.conv0.weight"} <= set(state)
    torch.save(wrap(state), tmp_path / "van.pth.tar")
    ours = classifier()
    load_van_weights(ours, tmp_path / "van.pth.tar")
    assert torch.equal(logits(ours, X), logits(theirs, X))


def test_backbone_alone_from_everything(tmp_path):
    source = randomise(classifier())
    for family in ("van_mm", "official", "mmpretrain", "huggingface"):
        torch.save(to_family(*split_state_dict(source.state_dict()), family), tmp_path / "w.pth")
        model = VAN(arch=SMALL, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth")))
        model.init_weights()
        for key, value in model.state_dict().items():
            assert torch.equal(value, source.state_dict()[f"backbone.{key}"]), (family, key)


@pytest.mark.parametrize("family", ["van_mm", "official", "mmpretrain", "huggingface"])
def test_round_trips_are_exact(family):
    backbone, rest = split_state_dict(randomise(classifier()).state_dict())
    back = split_state_dict(to_family(backbone, rest, family))
    for before, after in zip((backbone, rest), back, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_detectors_backbone_for_a_segmentor(tmp_path):
    """A detector's own checkpoint, as mmengine saves it, starts a segmentor by init_cfg."""
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
    whole = randomise(
        MODELS.build(
            dict(
                type="mmseg.EncoderDecoder",
                backbone=dict(type="van_mm.VAN", arch=SMALL),
                decode_head=dict(type="mmseg.FCNHead", in_channels=32, in_index=3, channels=8, num_classes=4),
            )
        )
    )
    load_van_weights(segmentor, _saved(tmp_path, whole.state_dict()))
    assert torch.equal(segmentor.decode_head.conv_seg.weight, whole.decode_head.conv_seg.weight)


def _saved(folder: Path, content) -> Path:
    torch.save(content, folder / "saved.pth")
    return folder / "saved.pth"


def test_another_class_count_is_left_out_with_one_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(weights, "print_log", lambda message, *args, **kwargs: said.append(message))
    source, model = randomise(classifier(classes=5)), classifier(classes=7)
    before = model.head.fc.weight.clone()
    load_van_weights(model, _saved(tmp_path, official(source)))
    assert torch.equal(model.head.fc.weight, before)
    assert torch.equal(model.backbone.norm4.weight, source.backbone.norm4.weight)
    assert said == ["left out, for another number of classes: head.fc.weight, head.fc.bias"]


@pytest.fixture(scope="module")
def every_size():
    with torch.device("meta"):
        return {name: VAN(arch=name) for name in ARCHS}


@pytest.mark.parametrize(("theirs", "ours"), [(a, b) for a in ARCHS for b in ARCHS if a != b])
def test_wrong_size_is_named(theirs, ours, every_size):
    source = {key: torch.zeros(()).expand(value.shape) for key, value in every_size[theirs].state_dict().items()}
    with pytest.raises(WeightsError, match=f"these are VAN-{theirs.upper()} weights, the model is VAN-{ours.upper()}"):
        match_state_dict(every_size[ours], source)


def test_missing_unexpected_and_nan_are_listed(tmp_path):
    state = official(randomise(classifier()))
    for change, words in (
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
        with pytest.raises(WeightsError, match=words):
            load_van_weights(model, _saved(tmp_path, broken))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(WeightsError, match="holds no VAN weights"):
        load_van_weights(VAN(arch=SMALL), _saved(tmp_path, {"layer1.0.conv1.weight": torch.ones(1)}))
    with pytest.raises(WeightsError, match="no VAN backbone"):
        load_van_weights(torch.nn.Linear(1, 1), _saved(tmp_path, state))


# ---- Names ----------------------------------------------------------------------------------------------------------


def test_names_and_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert {row["arch"] for row in TABLE.values()} == set(ARCHS)
    with pytest.raises(WeightsError, match="no weights named 'van_mm://b9'; there are van_mm://b0_in1k"):
        read_checkpoint("van_mm://b9")
    with pytest.raises(WeightsError, match="can't be downloaded .* put it at .*checkpoints/van.pth"):
        read_checkpoint("http://127.0.0.1:9/van.pth")
    url = TABLE["b0_in1k"]["url"]
    cached = tmp_path / "checkpoints" / url.rpartition("/")[2]
    cached.parent.mkdir(exist_ok=True)
    torch.save(VAN(arch="b0").state_dict(), cached)
    with pytest.raises(WeightsError, match="hash"):  # the name ends in another file's hash
        read_checkpoint("van_mm://b0_in1k")
    cached.write_bytes(cached.read_bytes()[:-5_000_000])
    with pytest.raises(WeightsError, match="its weights take 15"):
        read_checkpoint("van_mm://b0_in1k")
    monkeypatch.setitem(TABLE, "mine", dict(url="https://localhost/van_mine.pth"))
    torch.save(VAN(arch="b0").state_dict(), tmp_path / "checkpoints/van_mine.pth")
    model = VAN(arch="b0", init_cfg=dict(type="Pretrained", checkpoint="van_mm://mine"))
    model.init_weights()


def test_listing(capsys):
    weights.main()
    out = capsys.readouterr().out
    assert "b2_in1k" in out and "ImageNet-22K" in out


# ---- Hostile files --------------------------------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def _pickled(payload) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state_dict=payload), buffer, pickle_protocol=2)
    return buffer.getvalue()


MARK = "touch van_mm_was_here"
CODE = "open('van_mm_was_here', 'w')"
EXECUTES = {
    "os.system": Call(os.system, MARK),
    "eval": Call(eval, CODE),
    "exec": Call(exec, CODE),
    "subprocess.Popen": Call(subprocess.Popen, MARK.split()),
    "subprocess.check_output": Call(subprocess.check_output, MARK.split()),
    "importlib": Call(importlib.import_module, "antigravity"),
    "__import__": Call(__import__, "antigravity"),
    "open": Call(open, "van_mm_was_here", "w"),
    "getattr": Call(getattr, pickle.Unpickler, "load"),
    "getattr of a buffer": Call(getattr, van_mm.compat.HistoryBuffer, "__init__"),
    "numpy.load": Call(np.load, "x.npy", None, True),
    "numpy reconstruct of a class": Call(np.core.multiarray._reconstruct, Path, (0,), b"b"),
    "pickle in pickle": Call(pickle.loads, pickle.dumps(Call(os.system, MARK))),
    "torch.load": Call(torch.load, "other.pth"),
}


@pytest.mark.parametrize("torch_version", ["as it is", "2.1.0"])
@pytest.mark.parametrize("payload", EXECUTES.values(), ids=EXECUTES)
def test_code_never_runs(payload, torch_version, tmp_path, monkeypatch):
    if torch_version != "as it is":
        monkeypatch.setattr(torch, "__version__", TorchVersion(torch_version))
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(_pickled(payload))
    before = set(sys.modules)
    for load in (read_file, lambda file: VAN(init_cfg=dict(type="Pretrained", checkpoint=file)).init_weights()):
        with pytest.raises(WeightsError, match="could run code|can't be read|cut short"):
            load("evil.pth")
    assert os.listdir() == ["evil.pth"] and "antigravity" not in set(sys.modules) - before


def test_the_offending_type_is_named(tmp_path):
    file = tmp_path / "evil.pth"
    file.write_bytes(_pickled(Call(eval, CODE)))
    with pytest.raises(WeightsError, match="asks for .*eval.* safetensors.* VAN_MM_RUN_CODE_IN_CHECKPOINTS=1"):
        read_file(file)


def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    return buffer.getvalue()


GOOD = _pickled({"norm1.weight": torch.ones(4000)})
MALFORMED = {
    "empty.pth": b"",
    "cut.pth": GOOD[: len(GOOD) // 2],
    "zeros.pth": bytes(4096),
    "text.pth": b"<!DOCTYPE html><html>404</html>",
    "bomb.pth": _zip_bomb(),
    "list.pth": b"\x80\x02]q\x00.",
    "header.safetensors": struct.pack("<Q", 1 << 60) + b"{}",
    "cut.safetensors": struct.pack("<Q", 100) + b'{"a":',
    "empty.safetensors": b"",
    "image.pth": b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(name, tmp_path):
    (tmp_path / name).write_bytes(MALFORMED[name])
    with pytest.raises(WeightsError, match=name):
        read_file(tmp_path / name)


def test_a_tensor_or_list_is_no_checkpoint(tmp_path):
    with pytest.raises(WeightsError, match="holds a Tensor, not a checkpoint"):
        read_file(_saved(tmp_path, torch.ones(3)))
    with pytest.raises(WeightsError, match="no state dict"):
        load_van_weights(VAN(arch=SMALL), _saved(tmp_path, dict(epoch=3)))
    with pytest.raises(WeightsError, match="no checkpoint"):
        read_file(tmp_path / "nowhere.pth")


def test_old_torch_reads_what_mmengine_writes_and_warns(tmp_path, monkeypatch):
    hub = MessageHub.get_instance("weights-test")
    hub.update_scalar("train/loss", np.float32(1.5))
    scaler = torch.amp.GradScaler("cpu").state_dict()
    content = dict(state_dict=OrderedDict(a=torch.ones(2, 2)), message_hub=hub.state_dict(), loss_scaler=scaler)
    file = _saved(tmp_path, content)
    assert read_file(file)["loss_scaler"] == scaler
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.1.0"))
    weights._warn_of_old_torch.cache_clear()
    with pytest.warns(UserWarning, match="CVE-2025-32434.*safetensors"):
        loaded = read_file(file)
    assert torch.equal(loaded["state_dict"]["a"], torch.ones(2, 2))
    assert loaded["message_hub"]["log_scalars"]["train/loss"].current() == 1.5
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        read_file(file)


def test_a_user_may_insist(tmp_path, monkeypatch):
    file = tmp_path / "with_path.pth"
    torch.save(dict(state_dict={}, where=Path("x")), file)
    with pytest.raises(WeightsError, match="pathlib"):
        read_file(file)
    monkeypatch.setenv("VAN_MM_RUN_CODE_IN_CHECKPOINTS", "1")
    assert read_file(file)["where"] == Path("x")


def test_mmengine_reads_through_us(tmp_path):
    from mmengine.runner.checkpoint import CheckpointLoader

    file = tmp_path / "a.safetensors"
    save_file({"norm1.weight": torch.ones(3)}, file)
    assert torch.equal(CheckpointLoader.load_checkpoint(str(file))["norm1.weight"], torch.ones(3))
