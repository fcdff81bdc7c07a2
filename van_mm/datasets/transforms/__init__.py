"""Transforms that the four codebases lack."""

from van_mm.datasets.transforms.loading import LoadSaliencyMask
from van_mm.datasets.transforms.processing import RandomMarginCrop

__all__ = ["LoadSaliencyMask", "RandomMarginCrop"]
