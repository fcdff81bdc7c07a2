"""Salient object detection as an mmsegmentation data set: DUTS, DUT-OMRON, PASCAL-S."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS, pair_files
from van_mm.registry import DATASETS
from van_mm.utils.errors import UserError


@DATASETS.register_module()
class SaliencyDataset(BaseSegDataset):
    """Images that have one mask each of their salient objects. The classes are background (0) and salient (1).

    Args:
        subset (str): Name of the data set, under which metrics are reported. A key of
            :data:`~van_mm.datasets.saliency_layouts.SALIENCY_LAYOUTS` sets the folders below ``data_root``. Any other
            name needs ``data_prefix``.
        data_prefix (dict, optional): Folders below ``data_root`` with the keys ``img_path`` and ``seg_map_path``.
            Defaults to the folders of the subset.
        grey (bool, optional): Whether the masks have shades, which are cut at one half. Defaults to the value in
            ``SALIENCY_LAYOUTS``, and to False for other data sets.
        kwargs: Further arguments of mmsegmentation's ``BaseSegDataset``.

    Raises:
        UserError: If the subset is unknown and ``data_prefix`` is not given, if a folder is missing or has no image,
            or if an image has no mask.

    Example:
        >>> from van_mm.datasets.saliency import SaliencyDataset
        >>> from van_mm.demo.demo_data import make_demo_data
        >>> make_demo_data("SaliencyDataset", "data/demo/saliency")
        >>> pipeline = [dict(type="LoadImageFromFile"), dict(type="van_mm.LoadSaliencyMask")]
        >>> dataset = SaliencyDataset("DUTS-TE", data_root="data/demo/saliency", pipeline=pipeline)
        >>> dataset[0]["img"].shape, dataset[0]["gt_seg_map"].shape
        ((224, 263, 3), (224, 263))
    """

    METAINFO = dict(classes=("background", "salient"), palette=[[30, 30, 30], [230, 159, 0]])

    def __init__(self, subset: str, data_prefix: dict | None = None, grey: bool | None = None, **kwargs) -> None:
        if subset not in SALIENCY_LAYOUTS and not data_prefix:
            raise UserError(
                f"unknown saliency set '{subset}'. Choose one of {', '.join(SALIENCY_LAYOUTS)}, or give the data_prefix"
            )
        layout = SALIENCY_LAYOUTS.get(subset)
        self.subset, self.grey = subset, bool(layout and layout.grey) if grey is None else grey
        super().__init__(data_prefix=data_prefix or layout.prefixes, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return a dict for each pair of image and mask, sorted by name."""
        images, masks = Path(self.data_prefix["img_path"]), Path(self.data_prefix["seg_map_path"])
        names, unpaired_images, _ = pair_files(images, masks)
        if unpaired_images:
            raise UserError(
                f"{self.subset}: {len(unpaired_images)} images of {images} have no mask in {masks}: "
                f"{unpaired_images[:5]}. Add the masks, or remove these images"
            )
        if not names:
            raise UserError(f"{self.subset}: no image in {images}. Images need the suffix .jpg or .jpeg")
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
