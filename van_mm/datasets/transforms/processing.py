"""Transforms that change images and their segmentation maps."""

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from van_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomMarginCrop(BaseTransform):
    """Cut equal margins off opposite sides of the image, and resize the rest to the size before.

    The left and the right margin are the same random number of pixels, from 0 to ``int(max_margin * width)`` inclusive.
    The upper and the lower margin are another one, from 0 to ``int(max_margin * height)``. Images are resized
    bilinearly, segmentation maps with nearest-neighbor interpolation. The defaults are those of EDN's release
    (transforms.py:81-105, scripts/train.py:224): 0 to 12 pixels on each side of a 384x384 image, half of the time.

    Required Keys:

    - img
    - seg_fields (optional)

    Modified Keys:

    - img
    - the segmentation maps named in seg_fields

    Args:
        prob (float): Probability of a crop. Other images stay as they are. Defaults to 0.5.
        max_margin (float): Largest margin as a share of the image's side, below 0.5. Defaults to 7 / 224.

    Raises:
        ValueError: If ``prob`` is not in [0, 1], or ``max_margin`` is not in [0, 0.5).

    Example:
        >>> crop = RandomMarginCrop(prob=1)
        >>> crop(dict(img=np.zeros((384, 384, 3), np.uint8)))["img"].shape
        (384, 384, 3)
    """

    def __init__(self, prob: float = 0.5, max_margin: float = 7 / 224) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be in [0, 1], got {prob}")
        if not 0 <= max_margin < 0.5:
            raise ValueError(f"max_margin must be in [0, 0.5), got {max_margin}: two margins would leave no image")
        self.prob = prob
        self.max_margin = max_margin

    @cache_randomness
    def draw_margins(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the vertical and the horizontal margin in pixels, or None for no crop."""
        if np.random.rand() >= self.prob:
            return None
        return tuple(np.random.randint(int(self.max_margin * side) + 1) for side in (height, width))

    def transform(self, results: dict) -> dict:
        """Crop and resize the image and its segmentation maps by the same margins."""
        height, width = results["img"].shape[:2]
        margins = self.draw_margins(height, width)
        if margins is not None:
            y, x = margins
            for key in ("img", *results.get("seg_fields", [])):
                crop = results[key][y : height - y, x : width - x]
                interpolation = "bilinear" if key == "img" else "nearest"
                results[key] = mmcv.imresize(crop, (width, height), interpolation=interpolation)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob}, max_margin={self.max_margin})"
