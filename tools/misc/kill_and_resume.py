#!/usr/bin/env python
"""Kill a demo training repeatedly, resume it each time, and check that the final weights do not change.

python tools/misc/kill_and_resume.py cls/van_b0_in1k seg/semantic_fpn_van_b0 --kills 20 --while-writing 5

Each config is trained twice: without interruption, and with SIGKILL at random moments. --while-writing of the kills
happen while a checkpoint is being written. The exit code is 1 unless the final weights of both runs are bit-identical.
The processes are forks of this one, because they would spend most of their time on imports.
With --epochs, the training is epoch-based, and with --processes a kill hits all processes of the job at once.
"""

import argparse
import contextlib
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "train.py"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="experiments that --demo supports")
    parser.add_argument("--kills", type=int, default=20, help="kills of each training (default: %(default)s)")
    parser.add_argument(
        "--while-writing", type=int, default=5, help="kills that hit a checkpoint being written (default: %(default)s)"
    )
    parser.add_argument("--iters", type=int, default=400, help="steps of the training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, metavar="N", help="divide the steps into epochs")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="ranks (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="persistent workers a rank (default: %(default)s)")
    parser.add_argument("--interval", type=int, default=2, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: %(default)s)")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/kill_and_resume"),
        help="folder of the runs (default: %(default)s)",
    )
    parser.add_argument("--demo-root", default="data/demo", help="folder of the demo data (default: %(default)s)")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    from van_mm.utils.codebases import CODEBASES

    for module in (*CODEBASES, "van_mm.apis.run_config"):
        with contextlib.suppress(ImportError):
            import_module(module)
    return int(not all([compare_runs(config, args) for config in args.configs]))


def compare_runs(config: str, args: argparse.Namespace) -> bool:
    """Train a config with and without kills. Return True if all kills hit and the final weights are the same."""
    import torch
    from rich.console import Console
    from rich.progress import track

    folder = args.work_dir / Path(config).name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    whole_dir, killed_dir = folder / "whole", folder / "killed"
    whole_log, killed_log = folder / "whole.log", folder / "killed.log"
    killed_log.touch()
    train = [str(TRAIN), str(folder / "config.py"), "--work-dir"]
    wait(fork(lambda: write_config(config, folder / "config.py", args), whole_log))

    length = f"{args.iters} steps" + (f" in {args.epochs} epochs" if args.epochs else "")
    print(f"{config}, {args.processes} processes: {length} without interruption", flush=True)
    wait(*start([*train, str(whole_dir)], whole_log, args.processes))

    rng = random.Random(args.seed)
    while_writing = [i < args.while_writing for i in range(args.kills)]
    rng.shuffle(while_writing)
    counts = {True: 0, False: 0}
    for writing in track(while_writing, f"{config}: killing", console=Console(stderr=True)):
        log_start = killed_log.stat().st_size
        pids = start([*train, str(killed_dir), "--resume"], killed_log, args.processes)
        if kill(pids, killed_log, log_start, killed_dir, writing, args.interval * rng.randrange(4), rng.uniform(0, 1)):
            counts[writing] += 1
    wait(*start([*train, str(killed_dir), "--resume"], killed_log, args.processes))

    last = Path((whole_dir / "last_checkpoint").read_text()).name
    expected, resumed = (torch.load(path / last, weights_only=False)["state_dict"] for path in (whole_dir, killed_dir))
    different = [key for key in expected if not torch.equal(expected[key], resumed[key])]
    print(
        f"{config}: killed {counts[False]} times between and {counts[True]} times while a checkpoint was written; "
        + (f"{len(different)} of {len(expected)} tensors differ" if different else "the final weights are the same"),
        flush=True,
    )
    return not different and sum(counts.values()) == args.kills


def write_config(config: str, file: Path, args: argparse.Namespace) -> None:
    """Write the config of a demo training that validates halfway and keeps the last three checkpoints."""
    from van_mm.apis.run_config import get_run_config, prepare_data

    cfg = get_run_config(config, demo=True, demo_root=args.demo_root, demo_iters=args.iters)
    prepare_data(cfg, ("train", "val"), demo=True)
    loader = cfg.train_dataloader
    loader.update(batch_size=2, num_workers=args.workers, persistent_workers=args.workers > 0)
    cfg.default_hooks.checkpoint.update(interval=args.interval, max_keep_ckpts=3)
    cfg.train_cfg.val_interval = max(1, args.iters // 2)
    if args.epochs:
        cfg.train_cfg = dict(by_epoch=True, max_epochs=args.epochs, val_interval=max(1, args.epochs // 2))
        loader.sampler = dict(type="DefaultSampler", shuffle=True)
        loader.num_batch_per_epoch = args.iters // args.epochs
    cfg.dump(file)


def fork(function: Callable[[], None], log: Path) -> int:
    """Call a function in a fork of this process, which appends its output to a file. Return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        function()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        print(stop.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(command: list[str], log: Path, processes: int) -> list[int]:
    """Start a training in this many processes, as torchrun does, and return their ids by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(rank: int) -> None:
        job = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        os.environ.update({name: str(value) for name, value in job.items()})
        sys.argv = command + (["--launcher", "pytorch"] if processes > 1 else [])
        sys.path.insert(0, str(TRAIN.parent))
        runpy.run_path(command[0], run_name="__main__")

    return [fork(partial(run, rank), log) for rank in range(processes)]


def wait(*pids: int) -> None:
    """Wait for processes, and raise if one of them fails."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        sys.exit(f"error: a training ended with {max(codes, key=abs)}. Read its log")


def kill(pids: list[int], log: Path, log_start: int, work_dir: Path, writing: bool, steps: int, delay: float) -> bool:
    """Kill all processes of a training at once.

    Args:
        pids (list[int]): The processes.
        log (Path): File with their output.
        log_start (int): Size of the file when they started.
        work_dir (Path): Work dir of the training.
        writing (bool): Wait until a checkpoint is being written.
        steps (int): Number of steps until a checkpoint, which the training takes first.
        delay (float): Seconds to wait after them.

    Returns:
        bool: Whether the training was still running when it was killed.
    """
    old_drafts = {file.name for file in work_dir.glob(".iter_*")}  # of earlier kills
    first, has_started, due_time, ended = find_last_iteration(work_dir), False, None, {}
    while True:
        for pid in set(pids) - ended.keys():
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                ended[pid] = True
        if ended:
            break
        has_started = has_started or b"Checkpoints will be saved" in log.read_bytes()[log_start:]
        if has_started and due_time is None and find_last_iteration(work_dir) >= first + steps:
            due_time = time.monotonic() + delay
        is_due = due_time is not None and time.monotonic() > due_time
        if is_due and (not writing or {file.name for file in work_dir.glob(".iter_*")} - old_drafts):
            break
        time.sleep(0.0005 if is_due else 0.01)
    for pid in set(pids) - ended.keys():
        os.kill(pid, signal.SIGKILL)
    for pid in set(pids) - ended.keys():
        os.waitpid(pid, 0)
    return not ended


def find_last_iteration(work_dir: Path) -> int:
    """Return the iteration of the latest checkpoint in a folder, or 0."""
    return max((int(file.stem.removeprefix("iter_")) for file in work_dir.glob("iter_*.pth")), default=0)


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        sys.exit(main(args))
