"""Start and end the processes of a distributed job."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import barrier, get_rank, init_dist
from mmengine.utils.dl_utils import set_multi_processing

from van_mm.engine.distributed.watchdog import Watchdog
from van_mm.utils.errors import UserError

# Environment variables of each launcher: rank, number of processes, rank on this machine, and what init_dist needs.
LAUNCHER_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
}
LAUNCHER_COMMANDS = {"pytorch": "tools/dist_train.sh", "slurm": "tools/slurm_train.sh", "mpi": "mpirun"}
watchdog = None  # of this process, once it has joined a job


def join_job(cfg: Config) -> None:
    """Join the job of several processes that ``cfg.launcher`` started.

    With GPUs, this calls mmengine's ``init_dist``. Without GPUs, the processes communicate over gloo, and the config
    gets :class:`~van_mm.engine.distributed.cpu_ddp.CPUDistributedDataParallel` as its model wrapper. From here on, all
    processes end if one of them dies (:class:`~van_mm.engine.distributed.watchdog.Watchdog`).

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
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_RANK=str(local_rank))
        try:
            dist.init_process_group("gloo", timeout=timedelta(seconds=options.get("timeout", 1800)))
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(
                f"rank {rank} of {processes} cannot connect to the other ranks at {address} ({error}). Check "
                "MASTER_ADDR and MASTER_PORT, and that every rank was started"
            ) from error
        cfg.setdefault("model_wrapper_cfg", ConfigDict(find_unused_parameters=cfg.get("find_unused_parameters", False)))
        cfg.model_wrapper_cfg.setdefault("type", "van_mm.CPUDistributedDataParallel")
    global watchdog
    watchdog = Watchdog(rank, processes)
    watchdog.start()


def report_failure(message: str) -> str:
    """Report an error of this process to the other ranks.

    Returns:
        str: The first error of the job, which may be that of another rank. Without a job, the message itself.
    """
    if watchdog is None:
        return message
    first_failure = watchdog.fail(message)
    watchdog.finish()
    return first_failure


def leave_job() -> None:
    """Leave the job after the run has ended on all ranks."""
    if watchdog is not None:
        watchdog.finish()
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Run the ``with`` block on rank 0 first, and on all other ranks after rank 0 has finished it."""
    if get_rank():
        barrier()
    yield
    if not get_rank():
        barrier()
