"""COCO annotations and the evaluation of keypoints, boxes and masks, with the interface of xtcocotools 1.14.3."""

from .version import __version__

__all__ = ["__version__"]
