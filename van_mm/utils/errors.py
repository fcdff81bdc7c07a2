"""Every error that a user can act on, and the context managers that turn other errors into one.

A message reads "<problem>. <remedy>."; :mod:`van_mm.apis.command_line` prints it and ends the tool.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Raised for a mistake that the user can correct. The message names the problem and the remedy."""


class ConfigNotFoundError(UserError, FileNotFoundError):
    """Raised when a config does not exist. The message suggests the closest names."""


class WeightsError(UserError, ValueError):
    """Raised when weights cannot be downloaded, read or loaded into a model."""


class RunStopped(Exception):
    """Raised when a run has written its checkpoint and ends because of a signal.

    Args:
        signum (int): The signal.
        message (str): Names the signal, the last iteration and the checkpoint.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


def format_error(error: Exception) -> str:
    """Return an error as one line. The name of the class comes first unless it is a :class:`UserError`."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def locate_error(error: Exception) -> str:
    """Return an error with its class and the line of code that raised it."""
    text = str(error)
    if "Traceback (most recent call last)" in text:  # of a process of a data loader, whose last line is the error
        return text.rstrip().splitlines()[-1]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno}: {frame.line})"


@contextmanager
def wrap_device_errors(device: str) -> Iterator[None]:
    """Turn PyTorch's errors about a device that does not exist into a :class:`UserError`."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: {str(error).splitlines()[0]}") from error


@contextmanager
def wrap_build_errors(what: str = "the config") -> Iterator[None]:
    """Turn any error of a constructor into a :class:`UserError` that names what could not be built.

    Args:
        what (str): Subject of the message. Defaults to "the config".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} does not build: {type(error).__name__}: {error}") from error
