"""Salient object detection as a data set of mmsegmentation: DUTS, DUT-OMRON, PASCAL-S."""

from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset

from van_mm.errors import UserError
from van_mm.registry import DATASETS, TRANSFORMS

from .layouts import LAYOUTS, check_mask, pair_up, read_mask


@DATASETS.register_module()
class SaliencyDataset(BaseSegDataset):
    """Images with one mask each of what stands out in them: two classes, background and salient.

    Args:
        subset (str): Key of ``van_mm.datasets.LAYOUTS``, whose folders below ``data_root`` are taken and under whose
            name metrics are reported; another name with a ``data_prefix`` is a data set of one's own.
        grey (bool, optional): Whether the masks are shades, cut at one half. By default as known of the subset.
        kwargs: As for mmsegmentation's ``BaseSegDataset``.

    Raises:
        UserError: If a folder is missing or empty or an image has no mask.
    """

    METAINFO = dict(classes=("background", "salient"), palette=[[30, 30, 30], [230, 159, 0]])

    def __init__(self, subset: str, data_prefix: dict | None = None, grey: bool | None = None, **kwargs) -> None:
        if subset not in LAYOUTS and not data_prefix:
            raise UserError(f"unknown saliency set '{subset}' without a data_prefix; known: {', '.join(LAYOUTS)}")
        known = LAYOUTS.get(subset)
        self.subset, self.grey = subset, bool(known and known.grey) if grey is None else grey
        super().__init__(data_prefix=data_prefix or known.prefixes, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Paths of each pair, in the order of names."""
        images, masks = Path(self.data_prefix["img_path"]), Path(self.data_prefix["seg_map_path"])
        names, alone, _ = pair_up(images, masks)
        if alone:
            raise UserError(f"{self.subset}: {len(alone)} images of {images} have no mask in {masks}: {alone[:5]}")
        if not names:
            raise UserError(f"{self.subset}: no image (.jpg) in {images}")
        suffixes = {file.stem: file.suffix for file in images.iterdir()}
        return [
            dict(
                img_path=str(images / f"{name}{suffixes[name]}"),
                seg_map_path=str(masks / f"{name}.png"),
                subset=self.subset,
                grey=self.grey,
                label_map=None,
                reduce_zero_label=False,
                seg_fields=[],
            )
            for name in names
        ]


@TRANSFORMS.register_module()
class LoadSaliencyMask(BaseTransform):
    """Load an 8-bit mask as a segmentation map of 0 and 1; more than half of white is salient.

    Raises:
        UserError: If the mask can't be read, is not of the image's size, is empty, or is not black and white.
    """

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map`` (H, W, uint8) for ``seg_map_path``."""
        mask = read_mask(results["seg_map_path"])
        problem = check_mask(mask, results["seg_map_path"], results["ori_shape"], results["grey"])
        if problem:
            raise UserError(f"{problem}; tools/dataset_converters/saliency.py checks the whole data set")
        results["gt_seg_map"] = (mask > 128).astype(np.uint8)
        results["seg_fields"].append("gt_seg_map")
        return results
