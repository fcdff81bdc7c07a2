#!/usr/bin/env python
"""Kill a demo training again and again, resume it each time, and see that nothing was lost.

python tools/misc/kill_and_resume.py cls/van_b0_in1k seg/semantic_fpn_van_b0 --kills 20 --while-writing 5

Each config is trained without a break, and then with SIGKILL at random moments, --while-writing of them while a
checkpoint is being written. Exit code 1 unless the final weights of the two are the same to the bit.
"""

import argparse
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
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="experiments that --demo knows")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--while-writing", type=int, default=5, help="of them (default: %(default)s)")
    parser.add_argument("--iters", type=int, default=400, help="steps of the training (default: %(default)s)")
    parser.add_argument("--interval", type=int, default=2, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/kill_and_resume"), help="%(default)s")
    parser.add_argument("--demo-root", default="data/demo", help="default: %(default)s")
    return parser.parse_args()


def command(args: argparse.Namespace, config: str, work_dir: Path) -> list[str]:
    """A short demo training that validates in between, and keeps the last three checkpoints."""
    return [
        sys.executable, str(TRAIN), config, "--demo", "--demo-root", args.demo_root, "--demo-iters", str(args.iters),
        "--work-dir", str(work_dir), "--cfg-options", "train_dataloader.batch_size=2",
        f"default_hooks.checkpoint.interval={args.interval}", "default_hooks.checkpoint.max_keep_ckpts=3",
        f"train_cfg.val_interval={args.iters // 2}",
    ]  # fmt: skip


def kill_one(call: list[str], log: Path, work_dir: Path, writing: bool, delay: float) -> bool:
    """Start a training and kill it; whether it was still running then.

    Args:
        call (list[str]): The training.
        log (Path): Gets what it prints.
        work_dir (Path): Of the training.
        writing (bool): Kill while a checkpoint's draft is on the disk, once ``delay`` is over.
        delay (float): Seconds from the moment that training starts.
    """
    drafts = {file.name for file in work_dir.glob(".iter_*")}  # of earlier kills
    with log.open("a") as file:
        start = log.stat().st_size
        process = subprocess.Popen(call, stdout=file, stderr=subprocess.STDOUT)
        stepping = None
        while process.poll() is None:
            if stepping is None and b"Checkpoints will be saved" in log.read_bytes()[start:]:
                stepping = time.monotonic()
            due = stepping is not None and time.monotonic() - stepping > delay
            if due and (not writing or {f.name for f in work_dir.glob(".iter_*")} - drafts):
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.0005 if writing else 0.01)
    return False


def run(args: argparse.Namespace, config: str) -> bool:
    """Train a config both ways; whether the weights are the same."""
    import torch
    from rich.console import Console
    from rich.progress import track

    folder = args.work_dir / Path(config).name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    whole, broken = folder / "whole", folder / "killed"
    print(f"{config}: {args.iters} steps without a break", flush=True)
    with (folder / "whole.log").open("w") as file:
        subprocess.run(command(args, config, whole), stdout=file, stderr=subprocess.STDOUT, check=True)

    chance = random.Random(args.seed)
    kinds = [i < args.while_writing for i in range(args.kills)]
    chance.shuffle(kinds)
    call, done = command(args, config, broken), {True: 0, False: 0}
    log = folder / "killed.log"
    log.touch()
    for writing in track(kinds, f"{config}: killing", console=Console(stderr=True)):
        resume = ["--resume"] if broken.exists() else []
        if kill_one([*call[:3], *resume, *call[3:]], log, broken, writing, chance.uniform(0, 2)):
            done[writing] += 1
    with log.open("a") as file:
        subprocess.run([*call[:3], "--resume", *call[3:]], stdout=file, stderr=subprocess.STDOUT, check=True)
    name = f"iter_{args.iters}.pth"
    weights = [torch.load(path / name, weights_only=False)["state_dict"] for path in (whole, broken)]
    differ = [key for key in weights[0] if not torch.equal(weights[0][key], weights[1][key])]
    print(
        f"{config}: killed {done[False]} times between and {done[True]} times while a checkpoint was written; "
        + (f"{len(differ)} of {len(weights[0])} tensors differ" if differ else "the final weights are the same")
    )
    return not differ and sum(done.values()) == args.kills


def main(args: argparse.Namespace) -> int:
    return int(not all([run(args, config) for config in args.configs]))


if __name__ == "__main__":
    sys.exit(main(parse_args()))
