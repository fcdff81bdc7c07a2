"""Layers that several models share."""

from van_mm.models.layers.depthwise_conv import DepthwiseConv2d

__all__ = ["DepthwiseConv2d"]
