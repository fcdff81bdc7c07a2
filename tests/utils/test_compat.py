"""mmengine's checkpoints load with ``weights_only=True``, and checkpoints that would run code do not."""

import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

import van_mm  # noqa: F401


def test_message_hub_round_trip(tmp_path):
    hub = MessageHub.get_instance("compat-test")
    hub.update_scalar("train/loss", 1.5)
    hub.update_scalar("train/lr", np.float32(0.5))
    hub.update_info("array", np.arange(3))
    torch.save(dict(message_hub=hub.state_dict()), tmp_path / "a.pth")
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)["message_hub"]
    buffer = loaded["log_scalars"]["train/loss"]
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.current() == 1.5 and buffer.statistics("mean") == 1.5


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "payload",
    [
        Call(os.system, "true"),
        Call(getattr, pickle.Unpickler, "load"),
        Call(getattr, HistoryBuffer, "__init__"),
        Call(getattr, HistoryBuffer, "register_statistics"),
        Call(eval, "1"),
    ],
)
def test_code_does_not_load(tmp_path, payload):
    torch.save(dict(a=payload), tmp_path / "evil.pth", pickle_protocol=2)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.pth", weights_only=True)
