"""Stages that no output needs neither run nor train, so that distributed training needs no special flag."""

import subprocess
import sys

import torch

from tests.checkpoints.test_loading import SMALL
from tests.conftest import free_port
from van_mm import VAN

WORKER = f"""
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import van_mm
rank, port = map(int, sys.argv[1:])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{{port}}", rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(van_mm.VAN(arch={SMALL}, out_indices=(0, 1, 2)))
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
for step in range(3):
    loss = sum(out.square().mean() for out in model(torch.rand(2, 3, 64, 64)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
"""


def test_two_processes():
    port = free_port()
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(port)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors


def test_keys_frozen_stages_and_modes_stay():
    model = VAN(arch=SMALL, out_indices=(0, 1, 2), frozen_stages=1, norm_eval=True)
    assert model.state_dict().keys() == VAN(arch=SMALL).state_dict().keys()
    model.load_state_dict(VAN(arch=SMALL).state_dict())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    stages = {int("".join(filter(str.isdigit, name.split(".")[0]))) for name in trained}
    assert stages == {2, 3}
    model.train()
    assert not model.block1[0].attn.training and not model.block2[0].norm1.training and model.block2[0].attn.training
    for out in model(torch.rand(2, 3, 64, 64)):
        assert out.requires_grad == (out.shape[1] > 8)
    assert all(parameter.requires_grad for parameter in VAN(arch=SMALL, out_indices=(3,)).parameters())
