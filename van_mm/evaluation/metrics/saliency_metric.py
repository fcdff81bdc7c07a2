"""Salient object detection metrics, computed with pysodmetrics."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import py_sod_metrics as sod
from mmengine.evaluator import BaseMetric

from van_mm.registry import METRICS

BETA_SQUARED = 0.3  # weights precision above recall in F-measures, as is usual in salient object detection
# The 50 thresholds of EDN's release, 1/51 to 50/51 (saleval.py:11).
EDN_THRESHOLDS = np.linspace(1 / 51, 50 / 51, 50, dtype=np.float32)


@METRICS.register_module()
class SaliencyMetric(BaseMetric):
    """F-measures, MAE, S-measure and E-measure of saliency maps, for each data set separately.

    Maps are compared at the size of the image file, by two protocols. The metrics are named ``<subset>/<name>`` and
    range from 0 to 1.

    By the protocol of pysodmetrics, maps are rounded to 8 bits, as in a PNG, and each map is stretched to the full
    range:

    - ``F_max``: the F-measure (beta^2 = 0.3) averaged over the images at each of 256 thresholds, then its maximum.
    - ``F_max_PR``: precision and recall averaged over the images at each threshold, then the maximum of the F-measure
      of these averages.
    - ``F_weighted``: the weighted F-measure (beta^2 = 1).
    - ``MAE``: the mean absolute error.
    - ``S_measure``: the structure measure (alpha = 0.5).
    - ``E_max``: the enhanced-alignment measure averaged over the images at each threshold, then its maximum.

    By the protocol of EDN's release (saleval.py), maps are neither rounded nor stretched:

    - ``F_max_EDN``: precision and recall averaged over the images at each of 50 thresholds from 1/51 to 50/51, then the
      maximum of the F-measure (beta^2 = 0.3) of these averages. A pixel is salient if it is above the threshold.
    - ``MAE_EDN``: the mean absolute error.

    Two details of the release differ. It keeps gray masks gray, which matters only if a mask is not black and white. It
    enlarges the sigmoid of the logits to the size of the image file, while mmsegmentation enlarges the logits.

    Args:
        output_dir (str, optional): Folder for the maps, which are written to ``<subset>/<image>.png``. By default no
            maps are written.
        **kwargs: Arguments of mmengine's ``BaseMetric``.
    """

    def __init__(self, output_dir: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.output_dir = output_dir

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure the maps of a batch.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): Samples with ``seg_logits`` (1, H, W) from 0 to 1, ``gt_sem_seg`` (1, H, W)
                of 0 and 1, ``subset`` and ``img_path``.
        """
        for sample in data_samples:
            raw = sample["seg_logits"]["data"][0].float().clamp(0, 1)
            saliency = (raw * 255).round().byte().cpu().numpy()
            truth = sample["gt_sem_seg"]["data"][0].byte().cpu().numpy() * 255
            if self.output_dir:
                file = Path(self.output_dir, sample["subset"], f"{Path(sample['img_path']).stem}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), saliency)
            measured = measure_saliency(saliency, truth) | measure_saliency_edn(raw.cpu().numpy(), truth > 0)
            self.results.append((sample["subset"], measured))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the metrics of each data set; curves are averaged over the images before the maximum is taken."""
        by_subset = defaultdict(list)
        for subset, measured in results:
            by_subset[subset].append(measured)
        metrics = {}
        for subset, rows in by_subset.items():
            mean = {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}
            for name, suffix in (("F_max_PR", ""), ("F_max_EDN", "_EDN")):
                precision, recall = mean.pop(f"precision{suffix}"), mean.pop(f"recall{suffix}")
                denominator = np.maximum(BETA_SQUARED * precision + recall, np.finfo(float).tiny)
                mean[name] = (1 + BETA_SQUARED) * precision * recall / denominator
            metrics |= {f"{subset}/{name}": float(np.max(value)) for name, value in mean.items()}
        return metrics


def measure_saliency(saliency: np.ndarray, truth: np.ndarray) -> dict[str, float | np.ndarray]:
    """Return the metrics of one 8-bit map (H, W) for its mask (H, W) of 0 and 255.

    Metrics that depend on a threshold are curves (256,), the rest are numbers.
    """
    measures = {
        "F": sod.Fmeasure(beta=BETA_SQUARED),
        "F_weighted": sod.WeightedFmeasure(),
        "MAE": sod.MAE(),
        "S_measure": sod.Smeasure(),
        "E": sod.Emeasure(),
    }
    for measure in measures.values():
        measure.step(saliency, truth)
    results = {name: measure.get_results() for name, measure in measures.items()}
    return {
        "F_max": results["F"]["fm"]["curve"],
        "precision": results["F"]["pr"]["p"],
        "recall": results["F"]["pr"]["r"],
        "F_weighted": results["F_weighted"]["wfm"],
        "MAE": results["MAE"]["mae"],
        "S_measure": results["S_measure"]["sm"],
        "E_max": results["E"]["em"]["curve"],
    }


def measure_saliency_edn(saliency: np.ndarray, truth: np.ndarray) -> dict[str, float | np.ndarray]:
    """Return precision and recall at EDN's 50 thresholds (50,), and the mean absolute error, of one map.

    Args:
        saliency (np.ndarray): The map (H, W) from 0 to 1, float32.
        truth (np.ndarray): The mask (H, W), bool.
    """
    # A pixel is salient at as many thresholds as are below its value. Counting the pixels by this number, from the
    # highest threshold down, gives the pixels that are salient at each threshold.
    passed = np.searchsorted(EDN_THRESHOLDS, saliency.ravel(), side="left")
    length = len(EDN_THRESHOLDS) + 1
    found, hits = (
        np.bincount(counted, minlength=length)[:0:-1].cumsum()[::-1] for counted in (passed, passed[truth.ravel()])
    )
    return {
        "precision_EDN": hits / np.maximum(found, 1),  # 0 where no pixel is salient, as in the release
        "recall_EDN": hits / max(truth.sum(), 1),
        "MAE_EDN": np.abs(saliency - truth).mean(dtype=float),
    }
