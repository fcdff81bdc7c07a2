"""A problem of a data set or of a setting."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is wrong, and whether a run may start all the same.

    Attributes:
        message (str): "<problem>. <remedy>."
        is_error (bool): Whether figures would be wrong or the run would fail. Warnings are printed. Defaults to True.
    """

    message: str
    is_error: bool = True
