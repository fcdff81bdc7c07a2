"""The VAN backbone, and its blocks as fused operators."""
