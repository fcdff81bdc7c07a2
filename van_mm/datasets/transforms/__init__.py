"""Transforms that the four codebases lack."""

from van_mm.datasets.transforms.loading import LoadSaliencyMask

__all__ = ["LoadSaliencyMask"]
