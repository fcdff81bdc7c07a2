"""COCO annotations: the class of pycocotools, with the arguments and the defaults of xtcocotools."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import coco as pycoco

from . import mask


def _as_list(ids: Any) -> Any:
    """Wrap a string, which pycocotools would take for a list of characters."""
    return [ids] if isinstance(ids, str) else ids


class COCO(pycoco.COCO):
    """Annotations in COCO format.

    Args:
        annotation_file: Path of the JSON file.
        test_index: Indices of the keypoints to keep in the annotations, in this order. None keeps all.
        ann_data: The content of the file, if it is already loaded. Nothing is read then.
    """

    def __init__(
        self,
        annotation_file: str | None = None,
        test_index: Sequence[int] | None = None,
        ann_data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(annotation_file if ann_data is None else None)
        if ann_data is not None:
            self.dataset = ann_data
            self.createIndex()
        self.anno_file = [annotation_file]
        self.test_index = test_index
        for annotation in self.dataset.get("annotations", []):
            annotation.setdefault("iscrowd", False)
            if test_index is not None:
                keypoints = np.array(annotation["keypoints"]).reshape(-1, 3)
                annotation["keypoints"] = keypoints[list(test_index)].ravel().tolist()

    def getAnnIds(
        self, imgIds: Any = (), catIds: Any = (), areaRng: Sequence[float] = (), iscrowd: bool | None = None
    ) -> list[int]:
        """Return the ids of the annotations that match all filters, with ``areaRng[0] <= area < areaRng[1]``."""
        ids = super().getAnnIds(_as_list(imgIds), _as_list(catIds), iscrowd=iscrowd)
        if len(areaRng):
            ids = [i for i in ids if areaRng[0] <= self.anns[i]["area"] < areaRng[1]]
        return ids

    def getCatIds(self, catNms: Any = (), supNms: Any = (), catIds: Any = ()) -> list[int]:
        """Return the ids of the categories that match all filters."""
        return super().getCatIds(_as_list(catNms), _as_list(supNms), _as_list(catIds))

    def getImgIds(self, imgIds: Any = (), catIds: Any = ()) -> list[int]:
        """Return the ids of the images that match all filters."""
        return super().getImgIds(_as_list(imgIds), _as_list(catIds))

    def loadRes(
        self, resFile: str | list[dict[str, Any]] | np.ndarray, resData: list[dict[str, Any]] | None = None
    ) -> "COCO":
        """Return results as annotations of the same images and categories.

        Args:
            resFile: Path of the JSON file, or its content, or an array of boxes ``[N, 7]`` with the columns image id,
                x, y, width, height, score and category id. There may be no results at all.
            resData: The content of the file ``resFile``, if it is already loaded. Nothing is read then.
        """
        if len(self.anno_file) == 1:
            self.anno_file.append(resFile)
        results = resFile
        if isinstance(resFile, str):
            results = resData
            if results is None:
                with open(resFile) as file:
                    results = json.load(file)
        loaded = COCO()
        if len(results):
            self.dataset.setdefault("info", {})  # pycocotools 2.0.9 and 2.0.10 require it
            vars(loaded).update(vars(super().loadRes(results)))
        else:
            loaded.dataset = {"images": list(self.dataset["images"]), "annotations": []}
            loaded.createIndex()
        return loaded

    def annToMask(self, ann: dict[str, Any]) -> np.ndarray:
        """Return the mask ``[H, W]`` of an annotation."""
        return mask.decode(self.annToRLE(ann))
