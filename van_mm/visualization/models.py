"""Classifiers and pictures for the tools that look into a network."""

from argparse import Namespace
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from van_mm.errors import UserError
from van_mm.launch import build_model, load_config

from .inputs import read_image
from .predict import as_loaded, pipeline_of


def load_models(args: Namespace, pairs: Sequence[tuple[str, str]]) -> list[tuple[Config, nn.Module]]:
    """Configs, and their models with the weights of checkpoints.

    Args:
        args (Namespace): Parsed flags that change a config, from ``add_config_arguments``.
        pairs (Sequence[tuple[str, str]]): Of config and checkpoint.
    """
    configs = [load_config(Namespace(**{**vars(args), "config": config})) for config, _ in pairs]
    return [(cfg, build_model(cfg, checkpoint)) for cfg, (_, checkpoint) in zip(configs, pairs, strict=True)]


def prepare(cfg: Config, model: nn.Module, files: Sequence[str], size: int | None = None) -> tuple[np.ndarray, Tensor]:
    """What a model is fed of pictures.

    Args:
        cfg (Config): Of the model, whose test pipeline crops and resizes.
        model (nn.Module): Whose data preprocessor normalises.
        files (Sequence[str]): Pictures.
        size (int, optional): Resize to this many pixels a side instead of the pipeline's.

    Returns:
        tuple[np.ndarray, Tensor]: Pictures as they are seen (N, H, W, 3, uint8, RGB), and normalised (N, 3, H, W).

    Raises:
        UserError: If a file is no picture, or the pipeline makes them of different sizes.
    """
    pipeline = pipeline_of(cfg)
    entries = []
    for file in files:
        image = read_image(file)
        if size is None:
            entry = pipeline(as_loaded(image))
        else:
            pixels = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
            entry = dict(inputs=torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        entries.append(entry)
    shapes = {tuple(entry["inputs"].shape[1:]) for entry in entries}
    if len(shapes) > 1:
        raise UserError(f"the config's pipeline makes pictures of several sizes, {sorted(shapes)}; give --size")
    seen = np.stack([entry["inputs"].numpy().transpose(1, 2, 0)[..., ::-1] for entry in entries])
    inputs = pseudo_collate([dict(inputs=entry["inputs"]) for entry in entries])
    return np.ascontiguousarray(seen), model.data_preprocessor(inputs, False)["inputs"]
