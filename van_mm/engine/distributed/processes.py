"""Start and end the processes of a distributed job."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import barrier, get_rank, init_dist
from mmengine.utils.dl_utils import set_multi_processing

from van_mm.utils.errors import UserError
from van_mm.utils.launchers import LAUNCHER_VARIABLES

LAUNCHER_COMMANDS = {"pytorch": "tools/dist_train.sh", "slurm": "tools/slurm_train.sh", "mpi": "mpirun"}
STORE_TIMEOUT = timedelta(seconds=30)  # for an answer of the store of a job that has failed (our choice)


def join_job(cfg: Config) -> None:
    """Join the job of several processes that ``cfg.launcher`` started.

    With GPUs, this calls mmengine's ``init_dist``. Without GPUs, the processes communicate over gloo.

    If one process dies, the launcher ends the job: torchrun, mpirun, and srun with ``--kill-on-bad-exit``. Without
    them, PyTorch raises an error in the collectives of the remaining processes, because the connection is closed. A
    process that is silent, but not dead, is waited for up to ``env_cfg.dist_cfg.timeout`` seconds.

    Args:
        cfg (Config): Config of the run. Nothing happens if its ``launcher`` is ``'none'``, or if this process has
            joined a job already.

    Raises:
        UserError: If environment variables of the launcher are missing or not numbers, if this machine has fewer GPUs
            than processes, or if the processes cannot connect to each other.
    """
    if cfg.launcher == "none" or dist.is_initialized():
        return
    names = LAUNCHER_VARIABLES[cfg.launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {cfg.launcher}: the environment has no {', '.join(missing)}. Start the job with "
            f"{LAUNCHER_COMMANDS[cfg.launcher]}, or leave out --launcher to run a single process"
        )
    try:
        rank, processes, local_rank = (int(os.environ[name]) for name in names[:3])
    except ValueError:
        values = ", ".join(f"{name}={os.environ[name]}" for name in names[:3])
        raise UserError(f"--launcher {cfg.launcher}: {values} must be whole numbers") from None
    os.environ["LOCAL_RANK"] = str(local_rank)
    env_cfg = cfg.get("env_cfg", {})
    options = dict(env_cfg.get("dist_cfg", {}))
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank} of this machine has no GPU, because {torch.cuda.device_count()} are visible. "
                "Start one process per GPU, or hide all GPUs (CUDA_VISIBLE_DEVICES=) to run on the CPU"
            )
        # As in the runner, the config's start method is set first, because init_dist would choose 'spawn'.
        set_multi_processing(**env_cfg.get("mp_cfg", {}), distributed=True)
        init_dist(cfg.launcher, **options)
    else:
        if cfg.launcher == "slurm":
            list_hosts = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
            if "MASTER_ADDR" not in os.environ:
                os.environ["MASTER_ADDR"] = subprocess.check_output(list_hosts, text=True).split()[0]
        os.environ.setdefault("MASTER_PORT", str(options.get("port", 29500)))
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes))
        try:
            dist.init_process_group("gloo", timeout=timedelta(seconds=options.get("timeout", 1800)))
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(
                f"rank {rank} of {processes} cannot connect to the other ranks at {address} ({error}). Check "
                "MASTER_ADDR and MASTER_PORT, and that every rank was started"
            ) from error


def use_cpu_wrapper(cfg: Config) -> None:
    """Let a config of a distributed job without GPUs wrap its model in ``CPUDistributedDataParallel``."""
    if dist.is_initialized() and not torch.cuda.is_available():
        cfg.setdefault("model_wrapper_cfg", ConfigDict(find_unused_parameters=cfg.get("find_unused_parameters", False)))
        cfg.model_wrapper_cfg.setdefault("type", "van_mm.CPUDistributedDataParallel")


def report_failure(message: str) -> str:
    """Report an error of this process to the other ranks.

    Returns:
        str: The first error of the job with its rank and host, which may be that of another rank. Without a job, the
        message itself.
    """
    if not dist.is_initialized():
        return message
    report = f"rank {dist.get_rank()} ({socket.gethostname()}): {message}"
    # torchrun keeps the store when it restarts a job, so the key has to name the attempt.
    key = f"van_mm/error/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set_timeout(STORE_TIMEOUT)
        return store.compare_set(key, "", report).decode()
    except RuntimeError:  # the process that keeps the store has ended
        return report


def leave_job() -> None:
    """Leave the job after the run has ended on all ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def take_turns() -> Iterator[None]:
    """Run the ``with`` block on rank 0 first, then on one rank of each other machine, then on all other ranks.

    What the block keeps in a file is then written once, whether or not the machines share their disks.
    """
    turn = 0 if not get_rank() else 1 if os.environ.get("LOCAL_RANK", "0") == "0" else 2
    for _ in range(turn):
        barrier()
    yield
    for _ in range(2 - turn):
        barrier()
