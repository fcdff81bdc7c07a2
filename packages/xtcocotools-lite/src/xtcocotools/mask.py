"""Run-length encoded masks: the functions of pycocotools."""

import warnings
from typing import Any

import numpy as np
from pycocotools import mask as pymask
from pycocotools.mask import area, encode, frPyObjects, iou, merge, toBbox

__all__ = ["area", "decode", "encode", "frPyObjects", "iou", "merge", "toBbox"]


def decode(rleObjs: dict[str, Any] | list[dict[str, Any]]) -> np.ndarray:
    """Return the mask ``[H, W]`` of an encoding, or the masks ``[H, W, N]`` of a list, without numpy 2's warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return pymask.decode(rleObjs)
