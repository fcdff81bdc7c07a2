"""What the scripts of ``tools/analysis`` compute."""

from .complexity import complexity

__all__ = ["complexity"]
