"""Turn whatever ends a tool into one message and an exit code."""

import os
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from van_mm.engine.distributed import processes
from van_mm.engine.distributed.processes import leave_job, report_failure
from van_mm.utils.errors import RunStopped, UserError

PACKAGE_DIRS = (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2] / "tools")
ERROR_LOG = "error.log"
_log_folder = None  # of the run of this process, once it is known


def keep_tracebacks(work_dir: str | Path) -> None:
    """Let :func:`exit_with_message` write the traceback of an error to ``error.log`` in the work dir."""
    global _log_folder
    _log_folder = Path(work_dir)


def log_traceback(error: Exception) -> str:
    """Append the whole traceback of an error to ``error.log``.

    A message without a cause, about a run whose work dir does not exist yet, is complete as it is.

    Returns:
        str: A sentence that names the file, or nothing if none was written.
    """
    if _log_folder is None or not (_log_folder.is_dir() or error.__cause__ is not None):
        return ""
    path = _log_folder / ERROR_LOG
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(sys.argv)}\n")
            file.write("".join(traceback.format_exception(error)) + "\n")
    except OSError:  # as on a full disk; the message matters more
        return ""
    return f" (traceback: {path})"


def is_own_error(error: OSError) -> bool:
    """Return whether this package has met an error with a file, and not the code of a user.

    The last frame decides that is neither Python's nor that of an installed package.
    """
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = {Path(sysconfig.get_paths()[name]).resolve() for name in names}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if any(folder in file.parents for folder in PACKAGE_DIRS):
            return True
        if file.is_file() and not any(folder in file.parents for folder in libraries):
            return False
    return True


@contextmanager
def exit_with_message() -> Iterator[None]:
    """End the program with one message on errors that the user can correct.

    These are :class:`~van_mm.utils.errors.UserError` and files that this package cannot read or write. With
    ``VAN_MM_TRACEBACK=1`` the traceback is printed too, and ``error.log`` in the work dir of a run always holds it.
    Other exceptions pass; in a job of several processes they are reported to the others first.

    Raises:
        SystemExit: With the message, which makes the exit code 1; with 128 + the signal after a signal; with 0 never.
    """
    global _log_folder
    _log_folder = None
    try:
        yield
    except (UserError, OSError) as error:
        is_message = isinstance(error, UserError) or error.filename is not None and is_own_error(error)
        logged = log_traceback(error)
        if not is_message:
            report_failure(f"{type(error).__name__}: {error}")
            raise
        if os.environ.get("VAN_MM_TRACEBACK"):
            traceback.print_exc()
        if isinstance(error, UserError):
            # The worker of a data loader sends its traceback along, and the message is the end of it.
            message = str(error).rpartition("UserError: ")[2].rstrip()
        else:
            message = f"{error.filename} can't be read or written: {error.strerror}"
        sys.exit(f"error: {report_failure(message)}{logged}")
    except RunStopped as stopped:
        leave_job()
        print(stopped, flush=True)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        log_traceback(error)
        first_failure = report_failure(f"{type(error).__name__}: {error}")
        if processes.watchdog is not None and not first_failure.startswith(f"rank {processes.watchdog.rank} "):
            sys.exit(f"error: {first_failure}")  # this process only failed because another one had
        raise
    leave_job()
