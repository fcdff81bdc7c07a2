"""The version of xtcocotools-lite."""

__version__ = "0.1.0"
