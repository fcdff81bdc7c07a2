"""Data sets that the four codebases lack. ``layouts`` needs none of them, ``saliency`` needs mmsegmentation."""
