"""Distributed jobs, on GPUs and on CPUs."""

from van_mm.engine.distributed.cpu_ddp import CPUDistributedDataParallel

__all__ = ["CPUDistributedDataParallel"]
