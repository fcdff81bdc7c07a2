"""Pairs of image and label map, listed in a file."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from van_mm.registry import DATASETS


@DATASETS.register_module()
class LabelMapDataset(BaseSegDataset):
    """A data set whose ``ann_file`` lists an image and its label map in each line, separated by a tab.

    Unlike ``BaseSegDataset``, it takes files of any names and suffixes, and label maps of any values.

    Args:
        ann_file (str): The list. Its paths are relative to ``data_root``.
        label_map (Sequence[tuple[int, int]]): Values of label maps that change, with the new values. 255 is ignored.
            Defaults to no changes.
        subset (str): Name of the data set, for metrics that report several data sets apart. Defaults to 'data'.
        kwargs: Further arguments of mmsegmentation's ``BaseSegDataset``.

    Example:
        >>> names = dict(classes=("road", "sky"))
        >>> dataset = LabelMapDataset("train.txt", data_root="data/streets", label_map=[(11, 255)], metainfo=names)
    """

    def __init__(self, ann_file: str, label_map=(), subset: str = "data", **kwargs) -> None:
        self.changes, self.subset = {int(old): int(new) for old, new in label_map}, subset
        super().__init__(ann_file=ann_file, **kwargs)
        self.label_map = self.changes or None  # the base class has set it from its own classes

    def load_data_list(self) -> list[dict]:
        """Return a dict for each line of the list."""
        root = Path(self.data_root or "")
        lines = Path(self.ann_file).read_text(encoding="utf-8").splitlines()
        return [
            dict(
                img_path=str(root / image),
                seg_map_path=str(root / label),
                label_map=self.changes or None,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
                subset=self.subset,
            )
            for image, label in (line.split("\t") for line in lines if line)
        ]
