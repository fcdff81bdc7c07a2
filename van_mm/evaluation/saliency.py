"""Metrics of salient object detection, by pysodmetrics."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import py_sod_metrics as sod
from mmengine.evaluator import BaseMetric

from van_mm.registry import METRICS

BETA_SQUARED = 0.3


@METRICS.register_module()
class SaliencyMetric(BaseMetric):
    """F-measures, MAE, S- and E-measure, by data set, of maps at the size of the image as it is on disk.

    A map is rounded to 8 bits, as it is in a PNG, and stretched to the whole range, as pysodmetrics does. Reported are,
    as ``<subset>/<name>``: ``F_max`` (the largest of the mean F at 256 thresholds, beta^2 = 0.3), ``F_max_PR`` (the
    same of the mean precision and recall, as EDN's own evaluator has it), ``F_weighted`` (beta^2 = 1), ``MAE``,
    ``S_measure`` (alpha = 0.5) and ``E_max``; all from 0 to 1.

    Args:
        output_dir (str, optional): Where to write the maps, as ``<subset>/<image>.png``.
        kwargs: As for mmengine's ``BaseMetric``.
    """

    def __init__(self, output_dir: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.output_dir = output_dir

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure each map: ``seg_logits`` (1, H, W) in 0 to 1, against ``gt_sem_seg`` (1, H, W) of 0 and 1."""
        for sample in data_samples:
            saliency = (sample["seg_logits"]["data"][0].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
            truth = sample["gt_sem_seg"]["data"][0].byte().cpu().numpy() * 255
            if self.output_dir:
                file = Path(self.output_dir, sample["subset"], f"{Path(sample['img_path']).stem}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), saliency)
            self.results.append((sample["subset"], measure(saliency, truth)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Mean over the images of each data set; curves before their maximum is taken."""
        by_subset = defaultdict(list)
        for subset, measured in results:
            by_subset[subset].append(measured)
        metrics = {}
        for subset, rows in by_subset.items():
            mean = {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}
            precision, recall = mean.pop("precision"), mean.pop("recall")
            below = np.maximum(BETA_SQUARED * precision + recall, np.finfo(float).tiny)
            mean["F_max_PR"] = (1 + BETA_SQUARED) * precision * recall / below
            metrics |= {f"{subset}/{name}": float(np.max(value)) for name, value in mean.items()}
        return metrics


def measure(saliency: np.ndarray, truth: np.ndarray) -> dict[str, float | np.ndarray]:
    """pysodmetrics' results for one 8-bit map (H, W) and its mask of 0 and 255; curves (256,) of those with a
    threshold."""
    judges = {
        "F": sod.Fmeasure(beta=BETA_SQUARED),
        "F_weighted": sod.WeightedFmeasure(),
        "MAE": sod.MAE(),
        "S_measure": sod.Smeasure(),
        "E": sod.Emeasure(),
    }
    for judge in judges.values():
        judge.step(saliency, truth)
    found = {name: judge.get_results() for name, judge in judges.items()}
    return {
        "F_max": found["F"]["fm"]["curve"],
        "precision": found["F"]["pr"]["p"],
        "recall": found["F"]["pr"]["r"],
        "F_weighted": found["F_weighted"]["wfm"],
        "MAE": found["MAE"]["mae"],
        "S_measure": found["S_measure"]["sm"],
        "E_max": found["E"]["em"]["curve"],
    }
