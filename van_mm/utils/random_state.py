"""Seed all random generators, and save and restore their states."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def get_random_state() -> dict:
    """Return the random state of this process, in types that a checkpoint can hold.

    Returns:
        dict: The states of the generators of Python, NumPy, PyTorch and all CUDA devices, under the keys ``python``,
        ``numpy``, ``torch`` and ``cuda``. NumPy's array becomes a tensor, because weights-only loading rejects arrays.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=(kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def set_random_state(state: dict) -> None:
    """Restore the random state of this process.

    Args:
        state (dict): From :func:`get_random_state`. The states of CUDA devices are ignored if their number is not the
            number of devices here.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([device_state.cpu() for device_state in state["cuda"]])


def seed_generators(purpose: str, *key: int, device: bool = False) -> None:
    """Seed the generators of Python, NumPy and PyTorch by a purpose and the numbers of a place.

    Args:
        purpose (str): Word that separates the random numbers of different parts of a run.
        key (int): Numbers that are not negative. Other numbers give independent random numbers.
        device (bool): Seed the generators of GPUs too. Defaults to False.
    """
    seeds = np.random.SeedSequence([*purpose.encode(), *key]).generate_state(3, np.uint64).tolist()
    random.seed(seeds[0])
    np.random.seed(seeds[1] >> 32)
    (torch.manual_seed if device else torch.default_generator.manual_seed)(seeds[2])


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore the random state of this process after the ``with`` block."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)
