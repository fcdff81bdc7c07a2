"""Turn whatever ends a tool into one message and an exit code."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from van_mm.engine.distributed import processes
from van_mm.engine.distributed.processes import leave_job, report_failure
from van_mm.utils.errors import RunStopped, UserError


@contextmanager
def exit_with_message() -> Iterator[None]:
    """End the program with one message on errors that the user can correct.

    These are :class:`~van_mm.utils.errors.UserError` and files that cannot be read or written. With
    ``VAN_MM_TRACEBACK=1`` the traceback is printed too. Other exceptions pass; in a job of several processes they are
    reported to the others first.

    Raises:
        SystemExit: With the message, which makes the exit code 1; with 128 + the signal after a signal; with 0 never.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if os.environ.get("VAN_MM_TRACEBACK"):
            traceback.print_exc()
        if isinstance(error, UserError):
            # The worker of a data loader sends its traceback along, and the message is the end of it.
            message = str(error).rpartition("UserError: ")[2].rstrip()
        elif error.filename is None:
            raise
        else:
            message = f"{error.filename} can't be read or written: {error.strerror}"
        sys.exit(f"error: {report_failure(message)}")
    except RunStopped as stopped:
        leave_job()
        print(stopped, flush=True)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        first_failure = report_failure(f"{type(error).__name__}: {error}")
        if processes.watchdog is not None and not first_failure.startswith(f"rank {processes.watchdog.rank} "):
            sys.exit(f"error: {first_failure}")  # this process only failed because another one had
        raise
    leave_job()
