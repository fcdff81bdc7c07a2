"""A message ends a tool, and the whole traceback stays in error.log."""

import runpy
import sys

import pytest
from mmengine.logging import MMLogger

from tests.conftest import ROOT, forget
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


@pytest.mark.parametrize("place", ["run", None])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("open('/nowhere/file')", "FileNotFoundError: .*'/nowhere/file'"),  # a user's code tells what to correct
        ("import json, pathlib\npathlib.Path('/nowhere').read_text()", "FileNotFoundError"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(users_module.py, line 1: 1 / 0\)"),
        (
            "class Worker(Exception): pass\nraise Worker('Traceback (most recent call last):\\n a\\nKeyError: 3')",
            "KeyError: 3",
        ),
    ],
)
def test_unexpected_errors(code, message, place, tmp_path, monkeypatch, capsys):
    """An unexpected error is one message too, and its traceback is in the work dir or in work_dirs/."""
    monkeypatch.chdir(tmp_path)
    log = tmp_path / (place or "work_dirs") / "error.log"
    whole = f"^error: unexpected {message}.* report it .traceback: .*error.log.$"
    with pytest.raises(SystemExit, match=whole) as stop, exit_with_message():
        if place:
            keep_tracebacks(tmp_path / place)
        run_user_code(tmp_path, code)
    assert "\n" not in stop.value.code and "Traceback" not in capsys.readouterr().err
    assert "users_module.py" in log.read_text() and "Traceback" in log.read_text()


def test_unexpected_error_on_a_full_disk(tmp_path, capsys):
    with pytest.raises(SystemExit, match="report it$"), exit_with_message():
        keep_tracebacks("/proc/nothing")
        run_user_code(tmp_path, "1 / 0")
    assert "users_module.py" in capsys.readouterr().err


def test_files_of_this_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="error: /proc/nothing can't be read or written: "), exit_with_message():
        dump_config("cls/van_b0_in1k", "/proc/nothing/x.py")
    assert not (tmp_path / "work_dirs").exists()


TOOLS = [path for path in (ROOT / "tools").rglob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_every_tool_ends_with_a_message(tool):
    """tools/misc/test_environments.py runs before the package is installed."""
    end = tool.read_text().partition('if __name__ == "__main__":')[2]
    assert "with exit_with_message():" in end or tool.stem == "test_environments"


def test_run_log_has_the_traceback(tmp_path):
    """The log of the run ends with the traceback and the message, those of a user's mistake too."""
    forget(MMLogger)
    MMLogger.get_instance("run", log_file=str(tmp_path / "run.log"))
    with pytest.raises(SystemExit), exit_with_message(), wrap_build_errors("the head"):
        run_user_code(tmp_path, "def build():\n    return {}['x']\nbuild()\n")
    text = (tmp_path / "run.log").read_text()
    assert "the head does not build: KeyError: 'x'" in text and "users_module.py" in text and "return {}['x']" in text
    forget(MMLogger)
