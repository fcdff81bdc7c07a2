"""What the launchers of distributed jobs tell a process, before it has imported PyTorch and joined the job."""

import os

# Environment variables of each launcher: rank, number of processes, rank on this machine, and what init_dist needs.
LAUNCHER_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
}


def read_rank(launcher: str) -> int:
    """Return the rank that a launcher has given this process, which need not have joined the job.

    It is 0 without a launcher, and if its variable is missing or not a number, which joining the job reports.
    """
    rank = "0" if launcher == "none" else os.environ.get(LAUNCHER_VARIABLES[launcher][0], "")
    return int(rank) if rank.isdecimal() else 0
