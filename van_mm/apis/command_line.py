"""Turn whatever ends a tool into one message and an exit code."""

import logging
import os
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from van_mm.utils.errors import RunStopped, UserError, locate_error

PACKAGE_DIRS = (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2] / "tools")
ERROR_LOG = "error.log"
DEFAULT_LOG_FOLDER = Path("work_dirs")  # of tools that have no work dir
_log_folder = None  # of the run of this process, once it is known


def keep_tracebacks(work_dir: str | Path) -> None:
    """Let :func:`exit_with_message` write the traceback of an error to ``error.log`` in the work dir."""
    global _log_folder
    _log_folder = Path(work_dir)


def log_traceback(error: Exception, is_unexpected: bool) -> str:
    """Append the whole traceback of an error to ``error.log``.

    An expected error, about a run whose work dir does not exist yet or of a tool without one, is complete as it is.

    Returns:
        str: A sentence that names the file, or nothing if none was written.
    """
    folder = _log_folder or DEFAULT_LOG_FOLDER
    if not is_unexpected and not (_log_folder and folder.is_dir()):
        return ""
    path = folder / ERROR_LOG
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(sys.argv)}\n")
            file.write("".join(traceback.format_exception(error)) + "\n")
    except OSError:  # as on a full disk
        if is_unexpected:
            traceback.print_exc()
        return ""
    return f" (traceback: {path})"


def log_error(message: str, error: Exception) -> None:
    """Write the traceback and then the message that ends a run to its log file. The screen shows the message."""
    if "torch" not in sys.modules:  # no run has begun, and asking for its logger would import PyTorch
        return
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    for text in ("".join(traceback.format_exception(error)).rstrip(), message):
        record = logger.makeRecord(logger.name, logging.ERROR, sys.argv[0], 0, text, (), None, "main")
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
    sys.stdout.flush()


def describe_failure(error: Exception) -> tuple[str, bool]:
    """Return the message of an error that ends a tool, and whether its traceback may be needed to understand it."""
    if isinstance(error, UserError):
        # The worker of a data loader sends its traceback along, and the message is the end of it.
        message = str(error).rpartition("UserError: ")[2].rstrip()
        return message, error.__cause__ is not None and not isinstance(error.__cause__, (UserError, OSError))
    if isinstance(error, OSError) and error.filename is not None and is_own_error(error):
        return f"{error.filename} can't be read or written: {error.strerror}", False
    return f"unexpected {locate_error(error)}. If the message does not tell what to correct, report it", True


def get_job_module() -> ModuleType | None:
    """Return :mod:`van_mm.engine.distributed.processes` if this process has imported it, because it may be in a job.

    Importing it here would import PyTorch before the first message.
    """
    return sys.modules.get("van_mm.engine.distributed.processes")


def report_failure(message: str) -> str:
    """Report an error to the other processes of a job, if there is one, and return the first error of the job."""
    job = get_job_module()
    return job.report_failure(message) if job else message


def leave_job() -> None:
    """Leave the job of several processes, if there is one."""
    if job := get_job_module():
        job.leave_job()


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
    """End the program with one message on any error.

    ``error.log`` in the work dir of a run, or in ``work_dirs/`` for tools that have none, holds the traceback of every
    error that this package does not expect. With ``VAN_MM_TRACEBACK=1`` tracebacks are printed too. In a job of several
    processes, the error is reported to the others.

    Raises:
        SystemExit: With the message, which makes the exit code 1; with 128 + the signal after a signal; with 0 never.
    """
    global _log_folder
    _log_folder = None
    try:
        yield
    except RunStopped as stopped:
        leave_job()
        print(stopped, flush=True)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message, is_unexpected = describe_failure(error)
        logged = log_traceback(error, is_unexpected)
        if os.environ.get("VAN_MM_TRACEBACK"):
            traceback.print_exc()
        message = report_failure(message) + logged
        log_error(message, error)
        sys.exit(f"error: {message}")
    leave_job()
