"""Small mmengine runs that are shared by the tests of hooks."""

import random

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn


class Net(nn.Module):
    """A BatchNorm and a linear layer behind mmengine's model interface. The loss is the mean of the squared output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))

    def val_step(self, data):
        torch.rand(3), np.random.random()
        return [self.layers(data["inputs"])]

    def train_step(self, data, optim_wrapper):
        loss = self.layers(data["inputs"]).square().mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach())


def runner(batches, tmp_path, patience=3, net=None, wrapper=None, **options):
    """Build a runner that trains a ``Net`` on the given batches, in order.

    ``wrapper`` has further settings of the optimizer wrapper, and ``options`` those of DivergenceHook.
    """
    torch.manual_seed(0)
    net = net or Net()
    return Runner(
        net,
        str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=x) for x in batches],
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=1,
            collate_fn=lambda samples: samples[0],
        ),
        train_cfg=dict(by_epoch=False, max_iters=len(batches)),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1), **(wrapper or {})),
        custom_hooks=[dict(type="van_mm.DivergenceHook", patience=patience, **options)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=100)),
        log_level="WARNING",
        experiment_name=f"{tmp_path.name}_{len(batches)}",
    )


def batches(*bad, number=6):
    """Return random batches. Each (index, value) in ``bad`` overwrites one element of that batch."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(8, 4, generator=generator) for _ in range(number)]
    for index, value in bad:
        inputs[index][0, 0] = value
    return inputs


class Noise(torch.utils.data.Dataset):
    """Samples that change with each access, because they draw from all three random generators."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        draw = random.random() + np.random.random() + torch.rand(())
        return dict(inputs=torch.tensor([index, draw, 1, draw * draw]).repeat(8, 1))


def noisy_runner(by_epoch, work_dir, name, length, resume=None, hooks=(), **loader_options):
    """Build a runner with dropout on :class:`Noise`. It validates after each epoch, or after each 6 iterations."""
    torch.manual_seed(0)
    net = Net()
    net.layers.insert(1, nn.Dropout(0.3))
    loop = dict(by_epoch=True, max_epochs=length, val_interval=1) if by_epoch else dict(
        by_epoch=False, max_iters=6 * length, val_interval=6
    )  # fmt: skip
    loader = dict(
        dataset=Noise(),
        sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
        batch_size=2,
        collate_fn=lambda samples: dict(inputs=torch.cat([sample["inputs"] for sample in samples])),
    )
    return Runner(
        net,
        str(work_dir),
        train_dataloader=loader | loader_options,
        val_dataloader=dict(loader, sampler=dict(type="DefaultSampler", shuffle=False)),
        val_evaluator=Nothing(),
        val_cfg=dict(),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=dict(type="LinearLR", start_factor=0.1, end=20, by_epoch=False),
        custom_hooks=[dict(type="van_mm.ExactResumeHook"), dict(type="EMAHook"), *hooks],
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2),
            sampler_seed=dict(type="DistSamplerSeedHook"),
        ),
        randomness=dict(seed=5),
        resume=resume is not None,
        load_from=resume and str(resume),
        log_level="WARNING",
        experiment_name=name,
    )


class Nothing(Evaluator):
    """An evaluator without metrics. It draws a random number, so that validation changes the random state."""

    def __init__(self):
        super().__init__([])

    def process(self, data_samples, data_batch=None):
        random.random()

    def evaluate(self, size):
        return dict(nothing=0.0)
