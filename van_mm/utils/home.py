"""Let mmengine and PyTorch be imported on machines without a home folder."""

import atexit
import getpass
import os
import shutil
import tempfile
from pathlib import Path

has_home = True  # False once a temporary folder stands in for the home folder


def ensure_home() -> None:
    """Set ``HOME`` to a temporary folder and ``LOGNAME`` to the user's number, if the user has neither home nor name.

    Some containers run as a user without these variables and without an entry in the password database. There, mmengine
    (through yapf), matplotlib and PyTorch raise an error on import. The folder is private to this process and is
    deleted at its end.
    """
    global has_home
    try:
        Path.home()
    except RuntimeError:
        has_home = False
        os.environ["HOME"] = tempfile.mkdtemp(prefix="van_mm-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["LOGNAME"] = str(os.getuid())
