"""Shared fixtures: small demo datasets, and functions that run the tools as a user runs them."""

import gc
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import config as config_module
from mmengine.config import utils as config_utils
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "ImageNet": ("imagenet", dict(train=2, val=1)),
    "ImageNet21k": ("imagenet21k", dict(train=2, val=1)),
    "CUB": ("CUB_200_2011", dict(train=1, val=1)),
    "ADE20KDataset": ("ade/ADEChallengeData2016", dict(train=6, val=3)),
    "SaliencyDataset": ("saliency", dict(train=6, val=2)),
    "CocoDataset": ("coco", dict(train=8, val=3)),
}


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--list-messages",
        metavar="FILE.md",
        help="for test_documented_problems.py: write the page of all messages to this file",
    )


def skip_slow_extras() -> None:
    """Disable work of mmengine that takes a third of a short run and does not change results.

    - mmengine parses all metafiles of a codebase for each upstream base of a config. Here, each file is parsed once.
    - mmengine formats a config with yapf five times per runner. Here, the text stays unformatted.
    - mmengine collects garbage for each dataset, which is slow when all codebases are imported. Here, the objects of
      the codebases are excluded from garbage collection.
    """
    config_utils.load = cache(config_utils.load)
    config_module.FormatCode = lambda text, **options: (text, True)
    for codebase in ("mmpretrain", "mmdet", "mmseg", "mmpose"):
        import_module(f"{codebase}.utils").register_all_modules(init_default_scope=False)
    gc.collect()
    gc.freeze()


def pytest_configure(config) -> None:
    """Limit each process to one thread under ``-n``, because the processes share the cores."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
        torch.set_num_threads(1)
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        skip_slow_extras()


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A ``--demo-root`` with a few images in each dataset."""
    from van_mm.demo.demo_data import make_demo_data

    root = tmp_path_factory.mktemp("demo")
    for dataset_type, (folder, sizes) in FOLDERS.items():
        make_demo_data(dataset_type, root / folder, **sizes)
    return root


@dataclass
class Done:
    """The result of a tool: its exit status and everything that it printed."""

    returncode: int
    stdout: str


def forget(kind: type) -> None:
    """Clear the named instances that mmengine keeps for a global class and its subclasses."""
    kind._instance_dict.clear()
    for child in kind.__subclasses__():
        forget(child)


def run_script(path: Path, args: tuple) -> tuple[int, str]:
    """Run a tool in this process. Return its exit code and its exit message, which may be empty."""
    sys.argv = [str(path), *map(str, args)]
    forget(Visualizer)
    forget(MMLogger)  # its handlers write to the output stream of an earlier test
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return code, stop.code if isinstance(stop.code, str) else ""
    return 0, ""


@pytest.fixture
def run_tool(tmp_path, monkeypatch, capfd):
    """Run ``tools/<name>.py`` in this process, because importing torch and MMLab takes most of a short run.

    The working folder is outside the checkout. An exception other than ``SystemExit`` fails the test.
    """

    def run(name: str, *args: object) -> Done:
        path = ROOT / "tools" / f"{name}.py"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", sys.argv)
        monkeypatch.syspath_prepend(str(path.parent))
        code, message = run_script(path, args)
        out, err = capfd.readouterr()
        return Done(code, out + err + message)

    return run


@dataclass
class Fork:
    """A tool that runs in a child process.

    Attributes:
        pid (int): Process id of the child.
        log (Path): File with everything that the child prints.
        returncode (int, optional): Exit status, or None while the child has not been waited for.
    """

    pid: int
    log: Path
    returncode: int | None = None

    def wait(self, timeout: float = 300) -> Done:
        """Wait for the child. A child that has not ended after ``timeout`` seconds fails the test."""
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            assert pid or time.monotonic() < deadline, f"the process does not end: {self.log.read_text()}"
            time.sleep(0.02)
        return Done(self.returncode, self.log.read_text())

    def wait_for(self, text: str, count: int = 1, timeout: float = 120) -> None:
        """Wait until the child has printed a text this many times. A child that ends before fails the test."""
        deadline = time.monotonic() + timeout
        while (self.log.read_text() if self.log.exists() else "").count(text) < count:
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def fork_tool(tmp_path):
    """Run ``tools/<name>.py`` in forks of this process, which have torch and MMLab already imported.

    With ``ranks``, start that many forks as one distributed job, as torchrun does.
    """
    forks: list[Fork] = []

    def start(name: str, *args: object, ranks: int = 0) -> list[Fork]:
        path = ROOT / "tools" / f"{name}.py"
        port, started = free_port(), []
        for rank in range(ranks or 1):
            log = tmp_path / f"fork_{len(forks)}.log"
            run = partial(run_in_folder, path, args, tmp_path, rank, ranks, port)
            started.append(Fork(fork_process(run, log), log))
            forks.append(started[-1])
        return started

    yield start
    for fork in forks:
        if fork.returncode is None:
            os.kill(fork.pid, signal.SIGKILL)
            fork.wait()


def run_in_folder(path: Path, args: tuple, folder: Path, rank: int, ranks: int, port: int) -> int:
    """Run a tool in a folder, as a rank of a job if there are ``ranks``, and return its exit code."""
    torch.set_num_threads(1)  # a fork does not copy the threads of the parent
    os.chdir(folder)
    sys.path.insert(0, str(path.parent))
    if ranks:
        set_job_variables(rank, rank, ranks, port)
        args = (*args, "--launcher", "pytorch")
    code, message = run_script(path, args)
    print(message, file=sys.stderr)
    return code


def fork_process(function: Callable[[], int | None], log: Path) -> int:
    """Call a function in a fork of this process, and return the fork's process id.

    Its output is appended to a file. It exits with what the function returns, where None stands for 0, and with 1 after
    an error.
    """
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def set_job_variables(rank: int, local_rank: int, ranks: int, port: int) -> None:
    """Set the environment variables that torchrun sets for a process of a job."""
    names = dict(RANK=rank, LOCAL_RANK=local_rank, WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in names.items()})


@pytest.fixture
def run_process(tmp_path):
    """Run a Python script in a new process, from a folder outside the checkout."""

    def run(script: Path, *args: object) -> Done:
        done = subprocess.run(
            [sys.executable, str(script), *map(str, args)],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return Done(done.returncode, done.stdout)

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for a user's data. The working folder is another one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "my data"
