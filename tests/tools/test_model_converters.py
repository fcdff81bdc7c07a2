"""The tools that convert and publish weights."""

import hashlib
import re

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints.test_loading import classifier, official, randomise
from van_mm.checkpoints.io import read_checkpoint
from van_mm.checkpoints.key_maps import get_state_dict, split_state_dict


@pytest.mark.parametrize("family", ["van_mm", "official", "mmpretrain", "huggingface"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_round_trip(family, suffix, run_tool, tmp_path):
    before = official(randomise(classifier()))
    torch.save(dict(state_dict=before), tmp_path / "a.pth.tar")
    converted, restored = tmp_path / f"b.{suffix}", tmp_path / "c.safetensors"
    assert run_tool("model_converters/convert_van", tmp_path / "a.pth.tar", converted, "--to", family).returncode == 0
    assert run_tool("model_converters/convert_van", converted, restored, "--to", "official").returncode == 0
    after = load_file(restored)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


def test_checkpoint_without_van(run_tool, tmp_path):
    torch.save({"layer1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    done = run_tool("model_converters/convert_van", tmp_path / "resnet.pth", tmp_path / "b.pth", "--to", "official")
    assert done.returncode == 1 and "no VAN weights" in done.stdout and not (tmp_path / "b.pth").exists()


def test_publish(run_tool, tmp_path):
    state = classifier().state_dict()
    torch.save(
        dict(meta=dict(epoch=3), state_dict=state, optimizer=dict(state={}), message_hub={}), tmp_path / "run.pth"
    )
    done = run_tool("model_converters/publish_model", tmp_path / "run.pth", tmp_path / "van.pth")
    assert done.returncode == 0, done.stdout
    (published,) = tmp_path.glob("van-*.pth")
    digest = re.fullmatch(r"van-([0-9a-f]{8})\.pth", published.name)[1]
    assert hashlib.sha256(published.read_bytes()).hexdigest().startswith(digest)
    content = read_checkpoint(published)
    assert set(content) == {"meta", "state_dict"} and content["meta"] == dict(epoch=3)
    assert split_state_dict(get_state_dict(content))[0].keys() == split_state_dict(state)[0].keys()
