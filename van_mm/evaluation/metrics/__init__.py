"""Metrics that the four codebases lack."""

from van_mm.evaluation.metrics.dump_predictions import DumpPredictions
from van_mm.evaluation.metrics.saliency_metric import SaliencyMetric

__all__ = ["DumpPredictions", "SaliencyMetric"]
