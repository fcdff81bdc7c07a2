"""Losses that the four codebases lack."""
