"""Metrics that the four codebases lack."""
