"""What the tests share: small demo data sets, and the tools run as a user runs them."""

import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
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
        "--list-messages", metavar="FILE.md", help="of test_bad_input.py: write every input and its message"
    )


def pytest_configure(config) -> None:
    """With ``-n`` each process takes one thread: two that share the cores wait for one another most of the time."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A ``--demo-root`` with a handful of images in each data set."""
    from van_mm.demo import make_demo_data

    root = tmp_path_factory.mktemp("demo")
    for dataset_type, (folder, sizes) in FOLDERS.items():
        make_demo_data(dataset_type, root / folder, **sizes)
    return root


@dataclass
class Done:
    """A finished tool: exit status and everything it printed."""

    returncode: int
    stdout: str


def forget(kind: type) -> None:
    """Forget the instances of a class of mmengine of which a process has one by name."""
    kind._instance_dict.clear()
    for child in kind.__subclasses__():
        forget(child)


@pytest.fixture
def run_tool(tmp_path, monkeypatch, capfd):
    """Run ``tools/<name>.py`` in this process (importing torch and MMLab takes most of a short run), from a folder
    outside the checkout. A traceback is an error of the test."""

    def run(name: str, *args: object) -> Done:
        path = ROOT / "tools" / f"{name}.py"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, args)])
        monkeypatch.syspath_prepend(str(path.parent))
        forget(Visualizer)
        forget(MMLogger)  # whose handlers write to the stream of an earlier test
        message, code = "", 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            message = stop.code if isinstance(stop.code, str) else ""
        out, err = capfd.readouterr()
        return Done(code, out + err + message)

    return run


@pytest.fixture
def run_process(tmp_path):
    """Run a Python script in a process of its own, from a folder outside the checkout."""

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
