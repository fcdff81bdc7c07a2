"""Checkpoints are read by path, URL or name. Files that are not weights are refused, and their code never runs."""

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
from mmengine.logging import HistoryBuffer, MessageHub
from safetensors.torch import save_file
from torch.torch_version import TorchVersion

from van_mm.checkpoints.__main__ import main
from van_mm.checkpoints.io import MODEL_ZOO, get_cache_path, read_checkpoint, read_checkpoint_file, warn_of_old_torch
from van_mm.checkpoints.loading import load_van_weights
from van_mm.models.backbones.van import ARCH_SETTINGS, VAN
from van_mm.utils.errors import WeightsError

SMALL = dict(embed_dims=[8, 16, 24, 32], depths=[1, 2, 1, 1], mlp_ratios=[2, 2, 2, 2])


def _saved(folder: Path, content) -> Path:
    torch.save(content, folder / "saved.pth")
    return folder / "saved.pth"


# ---- Names ----------------------------------------------------------------------------------------------------------


def test_names_and_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert {row["arch"] for row in MODEL_ZOO.values()} == set(ARCH_SETTINGS)
    with pytest.raises(WeightsError, match="no weights named 'van_mm://b9'; there are van_mm://b0_in1k"):
        read_checkpoint("van_mm://b9")
    with pytest.raises(WeightsError, match="can't be downloaded .* put it at .*checkpoints/[0-9a-f]{8}/van.pth"):
        read_checkpoint("http://127.0.0.1:9/van.pth")
    url = MODEL_ZOO["b0_in1k"]["url"]
    cached = tmp_path / "checkpoints" / url.rpartition("/")[2]
    cached.parent.mkdir(exist_ok=True)
    torch.save(VAN(arch="b0").state_dict(), cached)
    with pytest.raises(WeightsError, match="hash"):  # the hash in the name is that of another file
        read_checkpoint("van_mm://b0_in1k")
    cached.write_bytes(cached.read_bytes()[:-5_000_000])
    with pytest.raises(WeightsError, match="its weights take 15"):
        read_checkpoint("van_mm://b0_in1k")
    monkeypatch.setitem(MODEL_ZOO, "mine", dict(url="https://localhost/van_mine.pth"))
    cached = get_cache_path("https://localhost/van_mine.pth")
    cached.parent.mkdir()
    torch.save(VAN(arch="b0").state_dict(), cached)
    model = VAN(arch="b0", init_cfg=dict(type="Pretrained", checkpoint="van_mm://mine"))
    model.init_weights()


def test_listing(capsys):
    main()
    out = capsys.readouterr().out
    assert "b2_in1k" in out and "ImageNet-22K" in out


# ---- Hostile files --------------------------------------------------------------------------------------------------


class Call:
    """An object whose pickle calls a function when it is loaded."""

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
    "getattr of a buffer": Call(getattr, HistoryBuffer, "__init__"),
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
    for load in (
        read_checkpoint_file,
        lambda file: VAN(init_cfg=dict(type="Pretrained", checkpoint=file)).init_weights(),
    ):
        with pytest.raises(WeightsError, match="could run code|can't be read|cut short"):
            load("evil.pth")
    assert os.listdir() == ["evil.pth"] and "antigravity" not in set(sys.modules) - before


def test_message_names_the_refused_function(tmp_path):
    file = tmp_path / "evil.pth"
    file.write_bytes(_pickled(Call(eval, CODE)))
    with pytest.raises(WeightsError, match="asks for .*eval.* safetensors.* VAN_MM_RUN_CODE_IN_CHECKPOINTS=1"):
        read_checkpoint_file(file)


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
        read_checkpoint_file(tmp_path / name)


def test_content_that_is_not_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="holds a Tensor, not a checkpoint"):
        read_checkpoint_file(_saved(tmp_path, torch.ones(3)))
    with pytest.raises(WeightsError, match="no state dict"):
        load_van_weights(VAN(arch=SMALL), _saved(tmp_path, dict(epoch=3)))
    with pytest.raises(WeightsError, match="no checkpoint"):
        read_checkpoint_file(tmp_path / "nowhere.pth")


def test_old_torch_reads_mmengine_checkpoints_and_warns(tmp_path, monkeypatch):
    hub = MessageHub.get_instance("weights-test")
    hub.update_scalar("train/loss", np.float32(1.5))
    scaler = torch.amp.GradScaler("cpu").state_dict()
    content = dict(state_dict=OrderedDict(a=torch.ones(2, 2)), message_hub=hub.state_dict(), loss_scaler=scaler)
    file = _saved(tmp_path, content)
    assert read_checkpoint_file(file)["loss_scaler"] == scaler
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.1.0"))
    warn_of_old_torch.cache_clear()
    with pytest.warns(UserWarning, match="CVE-2025-32434.*safetensors"):
        loaded = read_checkpoint_file(file)
    assert torch.equal(loaded["state_dict"]["a"], torch.ones(2, 2))
    assert loaded["message_hub"]["log_scalars"]["train/loss"].current() == 1.5
    with warnings.catch_warnings():  # the second read does not warn again
        warnings.simplefilter("error")
        read_checkpoint_file(file)


def test_environment_variable_allows_code(tmp_path, monkeypatch):
    file = tmp_path / "with_path.pth"
    torch.save(dict(state_dict={}, where=Path("x")), file)
    with pytest.raises(WeightsError, match="pathlib"):
        read_checkpoint_file(file)
    monkeypatch.setenv("VAN_MM_RUN_CODE_IN_CHECKPOINTS", "1")
    assert read_checkpoint_file(file)["where"] == Path("x")


def test_mmengine_reads_through_this_package(tmp_path):
    from mmengine.runner.checkpoint import CheckpointLoader

    file = tmp_path / "a.safetensors"
    save_file({"norm1.weight": torch.ones(3)}, file)
    assert torch.equal(CheckpointLoader.load_checkpoint(str(file))["norm1.weight"], torch.ones(3))
