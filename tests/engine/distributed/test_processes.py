"""Training and testing in two CPU processes equals one process, and the two processes end together."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.conftest import ROOT, Done
from tests.tools.test_train_test import last_metrics, refused
from van_mm import get_config
from van_mm.engine.distributed.processes import report_failure
from van_mm.engine.runner.checkpoint_files import is_complete
from van_mm.utils.config_walk import iter_dicts

TASKS = {
    "cls": "cls/van_b0_in1k",
    "det": "det/retinanet_van_b0_1x_coco",
    "seg": "seg/semantic_fpn_van_b0",
    "saliency": "seg/edn_van_b1_duts",
    "pose": "pose/simplebaseline_van_b2_coco_256x192",
}
FIXED = {  # replaces random crops
    "cls": [dict(type="Resize", scale=(224, 224))],
    "seg": [dict(type="Resize", scale=(512, 512), keep_ratio=False)],
}


@pytest.fixture
def two(tmp_path):
    """Start ``tools/dist_<name>.sh`` with two processes."""
    started = []

    def start(name: str, *args: object) -> subprocess.Popen:
        positional = 2 if name == "test" else 1
        port = 20000 + os.getpid() % 10000 + len(started)
        env = dict(os.environ, OMP_NUM_THREADS="1", PYTHON=sys.executable, PORT=str(port), CUDA_VISIBLE_DEVICES="")
        process = subprocess.Popen(
            ["bash", str(ROOT / f"tools/dist_{name}.sh"), *map(str, [*args[:positional], 2, *args[positional:]])],
            cwd=tmp_path,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def wait(process: subprocess.Popen) -> Done:
    out, _ = process.communicate()
    return Done(process.returncode, out)


@pytest.fixture
def run_two(two, fork_tool):
    """Run a tool in two processes: with its shell script for "cls", else in forks, which are five times as fast."""

    def run(task: str, name: str, *args: object) -> Done:
        if task == "cls":
            return wait(two(name, *args))
        forks = [fork.wait() for fork in fork_tool(name, *args, ranks=2)]
        return Done(max(abs(fork.returncode) for fork in forks), "".join(fork.stdout for fork in forks))

    return run


def write_deterministic_config(task: str, path: Path) -> str:
    """Write a config of the task with repeatable gradients: SGD, no augmentation, no dropout, no shuffling."""
    cfg = get_config(TASKS[task])
    for node in iter_dicts(cfg.model):
        for rate in {"drop_path_rate", "dropout_ratio"} & set(node):
            node[rate] = 0.0
        if task == "det" and node.get("type") == "SyncBN":
            node.type = "BN"
    if task == "cls":
        cfg.model.pop("train_cfg")  # mixup, cutmix
    dataset = cfg.train_dataloader.dataset
    dataset.pipeline = [step for step in dataset.pipeline if not step.type.startswith(("Rand", "Photo"))]
    dataset.pipeline[-1:-1] = FIXED.get(task, [])
    cfg.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=False)
    cfg.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
    cfg.param_scheduler, cfg.custom_hooks = [], []
    cfg.demo = dict(cfg.get("demo", {}), lr=0.1)
    if task == "saliency":
        # The dice loss is not a mean over images, and BatchNorm over few pixels amplifies rounding errors.
        cfg.model.decode_head.loss_decode = [dict(type="CrossEntropyLoss", use_sigmoid=True)]
        cfg.model.decode_head.norm_cfg = dict(type="GN", num_groups=4)
    if task == "det":
        cfg.model.test_cfg.score_thr = 0.0
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.metric = "proposal"  # recall of boxes of any class, because after one step no class is right
    cfg.dump(path)
    return str(path)


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_equal_one(task, run_two, run_tool, demo_root, tmp_path):
    """Two processes with two images each give the gradients, norm statistics and metrics of one process with four.

    RetinaNet's loss is not a mean over images, because mmdet counts the boxes of each process separately. For this
    model, two processes with BatchNorm equal one process that accumulates the gradients of two batches.
    """
    train = (write_deterministic_config(task, tmp_path / "config.py"), "--demo", "--demo-root", demo_root)
    options = ("--cfg-options", "train_dataloader.batch_size=2")
    sync = () if task == "det" else ("sync_bn=torch",)
    done = run_two(task, "train", *train, "--demo-iters", 1, "--work-dir", tmp_path / "two", *options, *sync)
    assert done.returncode == 0, done.stdout
    single = ("--cfg-options", "train_dataloader.batch_size=4")
    if task == "det":
        single = (*options, "train_dataloader.dataset.indices=[0,2,1,3]", "optim_wrapper.accumulative_counts=2")
    steps = 2 if task == "det" else 1
    done = run_tool("train", *train, "--demo-iters", steps, "--work-dir", tmp_path / "one", *single)
    assert done.returncode == 0, done.stdout

    files = [Path((tmp_path / name / "last_checkpoint").read_text()) for name in ("two", "one")]
    state_two, state_one = (torch.load(file, weights_only=False)["state_dict"] for file in files)
    for key, value in state_two.items():
        if task != "det" or "running" not in key and "num_batches" not in key:
            # A step changes the weights by up to 8e-3. Rounding changes them by up to 2e-6.
            torch.testing.assert_close(
                value, state_one[key], rtol=1e-5, atol=4e-6, msg=lambda text, key=key: f"{key}: {text}"
            )
    metrics = [
        {k: v for k, v in last_metrics(tmp_path / name).items() if k not in ("time", "data_time", "step")}
        for name in ("two", "one")
    ]
    if task != "det":  # BatchNorm's running statistics differ
        assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)

    def test(run: Callable, name: str) -> dict:
        """Test the checkpoint of the two processes."""
        metrics_file = tmp_path / f"{name}.json"
        done = run(train[0], files[0], *train[1:], "--work-dir", tmp_path / name, "--out", metrics_file)
        assert done.returncode == 0, done.stdout
        tested = json.loads(metrics_file.read_text())
        return {key: value for key, value in tested.items() if key in metrics[0]}

    tested = test(partial(run_two, task, "test"), "test_two")
    assert tested and tested == pytest.approx({key: metrics[0][key] for key in tested}, abs=1e-6)
    if task == "det":
        assert tested == pytest.approx(test(partial(run_tool, "test"), "test_one"), abs=1e-6)
        assert 0 < tested["coco/AR@100"] < 1


RUNNING = ("cls/van_b0_in1k", "--demo", "--demo-iters", 5000, "--no-validate")
OPTIONS = ("--cfg-options", "train_dataloader.batch_size=2", "default_hooks.logger.interval=1")


@pytest.fixture
def running(two, demo_root, tmp_path):
    """Start training in two processes under torchrun. Return torchrun after the first step, and the pids by rank."""

    def start() -> tuple[subprocess.Popen, list[int]]:
        train = (*RUNNING, "--demo-root", demo_root, "--work-dir", tmp_path / "run")
        process = two("train", *train, *OPTIONS)
        assert any("Iter(train)" in line for line in process.stdout)
        workers = {}
        for children in Path(f"/proc/{process.pid}/task").glob("*/children"):
            for child in children.read_text().split():
                rank = re.search(r"\0RANK=(\d)", Path(f"/proc/{child}/environ").read_text())
                if rank:
                    workers[int(rank[1])] = int(child)
        return process, [workers[0], workers[1]]

    return start


JOB = """
import ctypes, time
from mmengine.config import Config
from mmengine.dist import barrier, get_rank
from van_mm.apis.command_line import exit_with_message
from van_mm.engine.distributed.processes import join_job
from van_mm.utils.errors import UserError

with exit_with_message():
    join_job(Config(dict(launcher="pytorch")))
    barrier()
    print("joined", flush=True)
"""


@pytest.fixture
def start_job(fork_tool, tmp_path):
    """Start two processes without torchrun that join a job and then run the given lines."""

    def start(lines: str) -> list:
        (tmp_path / "job.py").write_text(JOB + textwrap.indent(lines, "    "))
        forks = fork_tool(tmp_path / "job", ranks=2)
        for fork in forks:
            fork.wait_for("joined")
        return forks

    return start


@pytest.mark.parametrize("killed", [0, 1])  # rank 0 keeps the store
def test_killed_rank_ends_the_other(killed, start_job):
    """Nothing supervises these processes, so the remaining one has to end by itself."""
    forks = start_job("while True: barrier()")
    os.kill(forks[killed].pid, signal.SIGKILL)
    done = forks[1 - killed].wait()
    assert done.returncode == 1 and "by peer" in done.stdout, done.stdout  # closed or reset


def test_error_of_one_rank_is_reported_by_the_other(start_job):
    forks = start_job("if get_rank(): raise UserError('the disk is full. Buy another')\nbarrier()")
    first, second = (fork.wait() for fork in forks)
    refused(second, "rank 1 (", "): the disk is full. Buy another")
    refused(first, "rank 1 (", "): the disk is full. Buy another")


def test_error_does_not_survive_a_restart(monkeypatch):
    """torchrun restarts the processes, but keeps their store."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for attempt in "01":
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
            assert report_failure(f"error {attempt}").endswith(f"): error {attempt}")
            assert report_failure("a later error").endswith(f"): error {attempt}")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow  # two minutes
@pytest.mark.parametrize("suspended", [False, True])
def test_stalled_process_goes_on(suspended, start_job):
    """A process may hold the GIL for a minute, as json.load of a large file does, or be suspended for as long."""
    stall = "time.sleep(1)" if suspended else "ctypes.PyDLL(None).sleep(60)"
    forks = start_job(f"if get_rank(): {stall}\nbarrier()\ntime.sleep(5)")
    if suspended:
        os.kill(forks[1].pid, signal.SIGSTOP)
        time.sleep(60)
        os.kill(forks[1].pid, signal.SIGCONT)
    assert [fork.wait().returncode for fork in forks] == [0, 0]


def test_preemption_through_torchrun(running, tmp_path):
    """After a signal to torchrun, the job writes one checkpoint and ends."""
    process, _ = running()
    os.kill(process.pid, signal.SIGTERM)
    check_preempted(wait(process), tmp_path)


def test_preemption_through_one_rank(fork_tool, demo_root, tmp_path):
    """After a signal to a single rank, the whole job writes one checkpoint and ends."""
    train = (*RUNNING, "--demo-root", demo_root, "--work-dir", tmp_path / "run")
    first, second = fork_tool("train", *train, *OPTIONS, ranks=2)
    first.wait_for("Iter(train)")
    os.kill(second.pid, signal.SIGTERM)
    done = [fork.wait() for fork in (first, second)]
    assert all(result.returncode == 128 + signal.SIGTERM for result in done)
    check_preempted(done[0], tmp_path)


def check_preempted(done: Done, folder: Path) -> None:
    """Check that the job ended with exactly one complete checkpoint."""
    assert done.returncode != 0 and "SIGTERM: ended after iteration" in done.stdout, done.stdout
    last = Path((folder / "run/last_checkpoint").read_text())
    assert is_complete(last) and len(list((folder / "run").glob("iter_*.pth"))) == 1
