"""Transformations of built models."""
