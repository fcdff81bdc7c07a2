from .fold import fold
from .van import LKA, VAN

__all__ = ["LKA", "VAN", "fold"]
