#!/usr/bin/env python
"""Kill a demo training repeatedly, resume it each time, and check that the final weights do not change.

python tools/misc/kill_and_resume.py cls/van_b0_in1k seg/semantic_fpn_van_b0 --kills 20 --while-writing 5

Each config is trained twice: without interruption, and with SIGKILL at random moments. --while-writing of the kills
happen while a checkpoint is being written. The exit code is 1 unless the final weights of both runs are bit-identical.
With --epochs, the training is epoch-based, and with --processes a kill hits all processes of the job at once.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
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
    return int(not all([compare_runs(config, args) for config in args.configs]))


def compare_runs(config: str, args: argparse.Namespace) -> bool:
    """Train a config with and without kills. Return True if all kills hit and the final weights are the same."""
    import torch
    from rich.console import Console
    from rich.progress import track

    folder = args.work_dir / Path(config).name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reference_dir, killed_dir = folder / "whole", folder / "killed"
    write_config(config, folder / "config.py", args)
    length = f"{args.iters} steps" + (f" in {args.epochs} epochs" if args.epochs else "")
    print(f"{config}, {args.processes} processes: {length} without interruption", flush=True)
    with (folder / "whole.log").open("w") as file:
        command = build_command(folder / "config.py", reference_dir, args.processes)
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True)

    rng = random.Random(args.seed)
    while_writing = [i < args.while_writing for i in range(args.kills)]
    rng.shuffle(while_writing)
    command, counts = build_command(folder / "config.py", killed_dir, args.processes), {True: 0, False: 0}
    log = folder / "killed.log"
    log.touch()
    for writing in track(while_writing, f"{config}: killing", console=Console(stderr=True)):
        resume = ["--resume"] if killed_dir.exists() else []
        if start_and_kill([*command, *resume], log, killed_dir, writing, rng.uniform(0, 2)):
            counts[writing] += 1
    with log.open("a") as file:
        subprocess.run([*command, "--resume"], stdout=file, stderr=subprocess.STDOUT, check=True)

    last = Path((reference_dir / "last_checkpoint").read_text()).name
    expected, resumed = (
        torch.load(path / last, weights_only=False)["state_dict"] for path in (reference_dir, killed_dir)
    )
    different = [key for key in expected if not torch.equal(expected[key], resumed[key])]
    print(
        f"{config}: killed {counts[False]} times between and {counts[True]} times while a checkpoint was written; "
        + (f"{len(different)} of {len(expected)} tensors differ" if different else "the final weights are the same")
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


def build_command(config: Path, work_dir: Path, processes: int) -> list[str]:
    """Return the command that trains a config in this many processes."""
    command = [str(TRAIN), str(config), "--work-dir", str(work_dir)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [*launcher, *command, "--launcher", "pytorch"]
    return [sys.executable, *command]


def start_and_kill(command: list[str], log: Path, work_dir: Path, writing: bool, delay: float) -> bool:
    """Start a training and kill all its processes.

    Args:
        command (list[str]): Command of the training.
        log (Path): File that its output is appended to.
        work_dir (Path): Work dir of the training.
        writing (bool): Wait until a checkpoint is being written.
        delay (float): Seconds to wait from the moment that training starts.

    Returns:
        bool: Whether the training was still running when it was killed.
    """
    old_drafts = {file.name for file in work_dir.glob(".iter_*")}  # of earlier kills
    with log.open("a") as file:
        log_start = log.stat().st_size
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        training_start = None
        while process.poll() is None:
            if training_start is None and b"Checkpoints will be saved" in log.read_bytes()[log_start:]:
                training_start = time.monotonic()
            due = training_start is not None and time.monotonic() - training_start > delay
            if due and (not writing or {file.name for file in work_dir.glob(".iter_*")} - old_drafts):
                for pid in list_descendants(process.pid):  # torchrun starts a session for each rank
                    os.kill(pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.0005 if writing else 0.01)
    return False


def list_descendants(pid: int) -> list[int]:
    """Return a process and all processes that it or they have started, parents first."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [pid, *(descendant for child in children for descendant in list_descendants(child))]


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        sys.exit(main(args))
