"""Transforms that load annotations."""

import numpy as np
from mmcv.transforms import BaseTransform

from van_mm.datasets.saliency_layouts import find_mask_problem, read_mask
from van_mm.registry import TRANSFORMS
from van_mm.utils.errors import UserError


@TRANSFORMS.register_module()
class LoadSaliencyMask(BaseTransform):
    """Load an 8-bit mask as a segmentation map of 0 (background) and 1 (salient).

    A pixel is salient if its gray value is above 128.

    Required Keys:

    - seg_map_path
    - seg_fields
    - ori_shape
    - grey

    Added Keys:

    - gt_seg_map ((H, W), uint8)

    Modified Keys:

    - seg_fields

    Raises:
        UserError: If the mask is missing, unreadable or empty, if it does not have the size of the image, or if it is
            not black and white although ``grey`` is False.
    """

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map`` to the results of the image loader."""
        mask = read_mask(results["seg_map_path"])
        problem = find_mask_problem(mask, results["seg_map_path"], results["ori_shape"], results["grey"])
        if problem:
            raise UserError(f"{problem}. Check the whole data set with tools/dataset_converters/saliency.py")
        results["gt_seg_map"] = (mask > 128).astype(np.uint8)
        results["seg_fields"].append("gt_seg_map")
        return results
