"""Annotation files, each read once."""

from functools import lru_cache

from mmengine.fileio import load


@lru_cache(maxsize=4)
def load_annotations(path: str) -> dict | list:
    """Return the content of a JSON or YAML file. Callers do not change it."""
    return load(path)
