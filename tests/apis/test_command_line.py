"""A message ends a tool, and the whole traceback stays in error.log."""

import runpy
import sys

import pytest

from van_mm.apis.command_line import exit_with_message, keep_tracebacks
from van_mm.apis.run_config import dump_config
from van_mm.utils.errors import UserError, wrap_build_errors


def run_user_code(tmp_path, code: str):
    (tmp_path / "users_module.py").write_text(code)
    return runpy.run_path(str(tmp_path / "users_module.py"))


def test_traceback_is_kept(tmp_path):
    message = r"error: the head does not build: KeyError: 'x' \(traceback: .*error.log\)"
    with pytest.raises(SystemExit, match=message), exit_with_message():
        keep_tracebacks(tmp_path / "run")
        with wrap_build_errors("the head"):
            run_user_code(tmp_path, "def build():\n    return {}['x']\nbuild()\n")
    text = (tmp_path / "run/error.log").read_text()
    assert "users_module.py" in text and "return {}['x']" in text and "direct cause" in text and sys.argv[0] in text


def test_plain_message_makes_no_folder(tmp_path):
    with pytest.raises(SystemExit, match="error: wrong. Right$"), exit_with_message():
        keep_tracebacks(tmp_path / "run")
        raise UserError("wrong. Right")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "code", ["open('/nowhere/file')", "import json, pathlib\npathlib.Path('/nowhere').read_text()"]
)
def test_files_of_user_code(code, tmp_path):
    """A file that a user's code does not find is a traceback, because this package cannot tell what to correct."""
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError), exit_with_message():
        keep_tracebacks(tmp_path / "run")
        run_user_code(tmp_path, code)
    assert "users_module.py" in (tmp_path / "run/error.log").read_text()


def test_files_of_this_package():
    with pytest.raises(SystemExit, match="error: /proc/nothing can't be read or written: "), exit_with_message():
        dump_config("cls/van_b0_in1k", "/proc/nothing/x.py")


def test_other_errors_pass(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(ZeroDivisionError), exit_with_message():
        keep_tracebacks(tmp_path / "run")
        run_user_code(tmp_path, "1 / 0")
    assert "ZeroDivisionError" in (tmp_path / "run/error.log").read_text()
