"""Average precision and recall of keypoints, boxes and masks: the class of pycocotools, extended as in xtcocotools.

Beside ``keypoints``, ``bbox`` and ``segm`` there are the types ``keypoints_crowd`` (CrowdPose, Li et al., CVPR 2019),
``keypoints_wholebody``, ``keypoints_foot``, ``keypoints_face``, ``keypoints_lefthand`` and ``keypoints_righthand``
(COCO-WholeBody, Jin et al., ECCV 2020). Any other name with ``keypoints`` in it is evaluated as ``keypoints``.
"""

import copy
import io
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from pycocotools import cocoeval as pycocoeval

from .coco import COCO

# The keys of an annotation that hold the keypoints of a type.
PART_KEYS = {
    "keypoints_wholebody": ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts"),
    "keypoints_foot": ("foot_kpts",),
    "keypoints_face": ("face_kpts",),
    "keypoints_lefthand": ("lefthand_kpts",),
    "keypoints_righthand": ("righthand_kpts",),
}
AREA_OF_BOX = 0.53  # area of a person / area of its box, where annotations have no area

# What the statistics of keypoints average: a result of `accumulate`, an OKS threshold or all, and an area range.
KEYPOINT_STATS = [
    (name, threshold, area)
    for name in ("precision", "recall")
    for threshold, area in ((None, "all"), (0.5, "all"), (0.75, "all"), (None, "medium"), (None, "large"))
]
CROWD_STATS = [stat for stat in KEYPOINT_STATS if stat[2] == "all"]


class COCOeval(pycocoeval.COCOeval):
    """Evaluation of results against annotations.

    Args:
        cocoGt: Annotations.
        cocoDt: Results, from ``cocoGt.loadRes``.
        iouType: A type of keypoints (see the module), ``"bbox"`` or ``"segm"``.
        sigmas: Standard deviation of each keypoint's annotation, relative to the root of the area. None takes those of
            COCO's 17 keypoints.
        use_area: Whether the size of a person is the annotation's area, if it has one, or 0.53 of its box.
    """

    def __init__(
        self,
        cocoGt: COCO | None = None,
        cocoDt: COCO | None = None,
        iouType: str = "keypoints",
        sigmas: np.ndarray | None = None,
        use_area: bool = True,
    ) -> None:
        super().__init__(cocoGt, cocoDt, "keypoints" if "keypoints" in iouType else iouType)
        self.params.iouType = iouType
        if cocoGt is not None:
            self.anno_file = getattr(cocoGt, "anno_file", [None])
        self.sigmas = pycocoeval.Params("keypoints").kpt_oks_sigmas if sigmas is None else np.asarray(sigmas)
        self.use_area = use_area
        self.score_key = "score"

    def _get_area(self, annotation: dict[str, Any]) -> float:
        if self.use_area and "area" in annotation:
            return annotation["area"]
        return annotation["bbox"][2] * annotation["bbox"][3] * AREA_OF_BOX

    def _get_keypoints(self, annotation: dict[str, Any]) -> np.ndarray:
        """Return the evaluated keypoints as ``[K, 3]``: x and y in pixels, and visibility."""
        keys = PART_KEYS.get(self.params.iouType, ("keypoints",))
        return np.concatenate([annotation[key] for key in keys], dtype=np.float64).reshape(-1, 3)

    def _get_pair(self, imgId: int, catId: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the annotations and the results, best first, of an image and a category, or of all categories."""
        categories = [catId] if self.params.useCats else self.params.catIds
        gts, dts = ([ann for cat in categories for ann in anns[imgId, cat]] for anns in (self._gts, self._dts))
        order = np.argsort([-dt[self.score_key] for dt in dts], kind="stable")
        return gts, [dts[i] for i in order]

    def _prepare(self) -> None:
        """Select what is evaluated, and mark the annotations to ignore: crowds and those without visible keypoints.

        A part is scored by its own key, such as ``face_score``, or by ``score`` in a result that does not have it.
        Results without visible keypoints are left out.
        """
        p = self.params
        if "keypoints" not in p.iouType:
            super()._prepare()
            return
        selected = {"imgIds": p.imgIds, "catIds": p.catIds} if p.useCats else {"imgIds": p.imgIds}
        gts, dts = (coco.loadAnns(coco.getAnnIds(**selected)) for coco in (self.cocoGt, self.cocoDt))
        self._gts, self._dts = defaultdict(list), defaultdict(list)
        self.evalImgs, self.eval = [], {}

        def count_visible(annotation: dict[str, Any]) -> int:
            return np.count_nonzero(self._get_keypoints(annotation)[:, 2] > 0)

        for gt in gts:
            visible = gt["num_keypoints"] if p.iouType == "keypoints_crowd" else count_visible(gt)
            gt["ignore"] = bool(visible == 0 or gt.get("iscrowd"))
            self._gts[gt["image_id"], gt["category_id"]].append(gt)
        if gts:
            self.score_key = p.iouType.removeprefix("keypoints_") + "_score" if p.iouType in PART_KEYS else "score"
        for dt in dts:
            if self.score_key not in dt:
                dt[self.score_key] = dt["score"]
            if count_visible(dt):
                self._dts[dt["image_id"], dt["category_id"]].append(dt)

    def evaluate(self) -> None:
        """Match results with annotations in each image, category and area range. The matches are in ``evalImgs``."""
        p = self.params
        if p.useSegm is not None or "keypoints" not in p.iouType:
            super().evaluate()
            return
        print(f"Evaluating {p.iouType} per image...")
        p.imgIds = list(np.unique(p.imgIds))
        p.maxDets = sorted(p.maxDets)
        if p.useCats:
            p.catIds = list(np.unique(p.catIds))
        self._prepare()
        categories = p.catIds if p.useCats else [-1]
        pairs = [(image, category) for image in p.imgIds for category in categories]
        self.ious = {pair: self.computeOks(*pair) for pair in pairs}
        self.evalImgs = [
            self.evaluateImg(image, category, area, p.maxDets[-1])
            for category in categories
            for area in p.areaRng
            for image in p.imgIds
        ]
        self._paramsEval = copy.deepcopy(p)

    def computeOks(self, imgId: int, catId: int) -> np.ndarray | list:
        """Return the object keypoint similarities ``[D, G]`` of the best D results and G annotations of an image.

        For an annotation without visible keypoints, the distance of a keypoint is that to the box, enlarged by its
        size on each side. The result is an empty list if there are no annotations or no results.
        """
        # As in pycocotools, keypoints without categories have no similarities.
        gts, dts = self._get_pair(imgId, catId) if self.params.useCats else ([], [])
        dts = dts[: self.params.maxDets[-1]]
        if not gts or not dts:
            return []
        points = np.stack([self._get_keypoints(dt)[:, :2] for dt in dts])  # [D, K, 2]
        variances = (self.sigmas * 2) ** 2
        similarities = np.empty((len(dts), len(gts)))
        for j, gt in enumerate(gts):
            keypoints = self._get_keypoints(gt)
            visible = keypoints[:, 2] > 0
            if visible.any():
                offsets = points - keypoints[:, :2]
            else:
                visible[:] = True
                corner, size = np.array(gt["bbox"][:2]), np.array(gt["bbox"][2:])
                offsets = np.maximum(corner - size - points, 0) + np.maximum(points - (corner + size * 2), 0)
            # The order of these operations and of the sum decides whether a similarity lies on a threshold.
            distances = offsets[..., 0] ** 2 + offsets[..., 1] ** 2
            errors = distances / variances / (self._get_area(gt) + np.spacing(1)) / 2
            errors = np.compress(visible, errors, axis=1)
            similarities[:, j] = np.exp(-errors).sum(1) / errors.shape[1]
        return similarities

    def evaluateImg(self, imgId: int, catId: int, aRng: Sequence[float], maxDet: int) -> dict[str, Any] | None:
        """Match the results of an image, best first, with its annotations at all T thresholds.

        A result takes the most similar annotation that is still free, the last of equally similar ones, and an
        ignored one only if there is no other. A crowd is always free.

        Returns:
            Ids, scores and ignore flags of D results and G annotations, and their matches ``dtMatches`` ``[T, D]`` and
            ``gtMatches`` ``[T, G]``: the other's id or -1. None if there are neither results nor annotations.
        """
        p = self.params
        gts, dts = self._get_pair(imgId, catId)
        if not gts and not dts:
            return None

        def is_outside(area: float) -> bool:
            return area < aRng[0] or area > aRng[1]

        ignored = np.array([bool(gt["ignore"] or is_outside(self._get_area(gt))) for gt in gts], dtype=bool)
        order = np.argsort(ignored, kind="stable")
        gts, dts, ignored = [gts[i] for i in order], dts[:maxDet], ignored[order]
        crowd = np.array([bool(gt["iscrowd"]) for gt in gts], dtype=bool)
        gt_ids = np.array([gt["id"] for gt in gts], dtype=np.int64)
        thresholds = np.minimum(p.iouThrs, 1 - 1e-10)[:, None]
        gt_matches = np.full((len(thresholds), len(gts)), -1, dtype=np.int64)
        dt_matches = np.full((len(thresholds), len(dts)), -1, dtype=np.int64)
        dt_ignored = np.zeros(dt_matches.shape, dtype=bool)

        similarities = self.ious[imgId, catId]
        if len(similarities):
            for d, (dt, row) in enumerate(zip(dts, similarities[:, order], strict=False)):
                free = ((gt_matches < 0) | crowd) & (row >= thresholds)  # [T, G]
                counted = free & ~ignored
                free = np.where(counted.any(1, keepdims=True), counted, free)
                best = len(gts) - 1 - np.where(free, row, -np.inf)[:, ::-1].argmax(1)
                matched = np.flatnonzero(free.any(1))
                best = best[matched]
                dt_matches[matched, d], dt_ignored[matched, d] = gt_ids[best], ignored[best]
                gt_matches[matched, best] = dt["id"]
        outside = np.array([is_outside(dt["area"]) for dt in dts], dtype=bool)
        return {
            "image_id": imgId,
            "category_id": catId,
            "aRng": aRng,
            "maxDet": maxDet,
            "dtIds": [dt["id"] for dt in dts],
            "gtIds": gt_ids.tolist(),
            "dtMatches": dt_matches,
            "gtMatches": gt_matches,
            "dtScores": [dt[self.score_key] for dt in dts],
            "gtIgnore": ignored.astype(np.int64),
            "dtIgnore": dt_ignored | ((dt_matches < 0) & outside),
        }

    def accumulate(self, p: pycocoeval.Params | None = None) -> None:
        """Turn the matches into ``eval``: precision ``[T, R, K, A, M]`` and recall ``[T, K, A, M]``, or -1."""
        matches = self.evalImgs
        # pycocotools takes the id 0 for no match.
        self.evalImgs = [image and {**image, "dtMatches": image["dtMatches"] >= 0} for image in matches]
        try:
            super().accumulate(p)
        finally:
            self.evalImgs = matches

    def summarize(self) -> None:
        """Print the statistics and keep them in ``stats``.

        Keypoints have 10: AP, AP at an OKS of 0.5 and of 0.75, AP of medium and of large persons, and the same of AR.
        In crowds they have 9: the first three of AP and of AR, and the AP of easy, medium and hard images.
        """
        kind = self.params.iouType
        if "keypoints" not in kind:
            super().summarize()
            return
        if not self.eval:
            raise RuntimeError("Please run accumulate() first")
        crowd = kind == "keypoints_crowd"
        stats = [self._summarize_keypoints(*stat) for stat in (CROWD_STATS if crowd else KEYPOINT_STATS)]
        if crowd:
            by_type = self.get_type_result(first=0.2, second=0.8)
            for label, value in zip(("easy", "medium", "hard"), by_type, strict=True):
                self._print_stat("precision", None, f"type={label:>6s}", value)
            stats += by_type
        self.stats = np.array(stats)

    def _summarize_keypoints(self, name: str, threshold: float | None, area: str) -> float:
        """Return the mean of the defined values of a result for 20 results per image, or -1 if there are none."""
        p, values = self.params, self.eval[name]
        if threshold is not None:
            values = values.compress(p.iouThrs == threshold, axis=0)
        values = values.compress([label == area for label in p.areaRngLbl], axis=-2)
        values = values.compress([count == 20 for count in p.maxDets], axis=-1)
        values = values[values > -1]
        mean = values.mean() if values.size else -1.0
        self._print_stat(name, threshold, f"area={area:>6s}", mean)
        return mean

    def _print_stat(self, name: str, threshold: float | None, subset: str, value: float) -> None:
        thresholds = self.params.iouThrs
        limits = f"{thresholds[0]:.2f}:{thresholds[-1]:.2f}" if threshold is None else f"{threshold:.2f}"
        title = f"Average {name.capitalize()}"
        short = "AP" if name == "precision" else "AR"
        print(f" {title:<18} ({short}) @[ IoU={limits:<9} | {subset} | maxDets= 20 ] = {value: .3f}")

    def get_type_result(self, first: float = 0.01, second: float = 0.85) -> list[float]:
        """Evaluate the images with a ``crowdIndex`` below ``first``, from there to below ``second``, and the others.

        Afterwards, the parameters and the results are those of the last group.

        Returns:
            The mean precision of each group, rounded to 4 digits. Undefined values count as -1, as in xtcocotools.
        """
        groups: tuple[list[int], list[int], list[int]] = ([], [], [])
        for image in self.cocoGt.dataset["images"]:
            groups[(image["crowdIndex"] >= first) + (image["crowdIndex"] >= second)].append(image["id"])
        means = []
        for ids in groups:
            self.params.imgIds = ids
            with redirect_stdout(io.StringIO()):
                self.evaluate()
                self.accumulate()
            means.append(round(np.mean(self.eval["precision"][:, :, :, 0, :]), 4))
        return means
