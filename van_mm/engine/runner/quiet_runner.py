"""A runner that keeps the details of its construction out of the log."""

import contextlib
import io
import logging

from mmengine.logging import MMLogger
from mmengine.runner import Runner

HOOK_TABLE = "Hooks will be executed in the following order"
NO_RESULTS = "The testing results of the whole dataset is empty"


class QuietRunner(Runner):
    """mmengine's runner, with a log that shows what a user acts on.

    The table of all hooks, and everything that constructors of optimizers log or print, such as a line for each
    parameter, have the level DEBUG. ``log_level='DEBUG'`` in the config shows them. A validation without predictions,
    which is usual in the first steps of a detector, is a warning and no error.
    """

    _builds_optimizer = False

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Build the logger as mmengine does, and lower the level of some records."""
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(self._lower_level)
        return logger

    def _lower_level(self, record: logging.LogRecord) -> bool:
        message = str(record.msg)
        if record.levelno == logging.INFO and (self._builds_optimizer or message.startswith(HOOK_TABLE)):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        elif record.levelno == logging.ERROR and NO_RESULTS in message:
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True

    def build_optim_wrapper(self, optim_wrapper):
        """Build the optimizer wrapper as mmengine does. What constructors print is logged with the level DEBUG."""
        printed = io.StringIO()
        self._builds_optimizer = True
        try:
            with contextlib.redirect_stdout(printed):
                return super().build_optim_wrapper(optim_wrapper)
        finally:
            self.logger.debug(printed.getvalue())
            self._builds_optimizer = False
