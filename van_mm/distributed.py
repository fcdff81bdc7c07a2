"""Several processes: started with one message where they can't be, on GPUs or over gloo on CPUs; ended together."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from van_mm.errors import UserError
from van_mm.registry import MODEL_WRAPPERS

# By launcher: what it tells each process, in the order rank, processes, place on this machine, and what else it needs.
VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
}
STARTED_BY = {"pytorch": "tools/dist_train.sh", "slurm": "tools/slurm_train.sh", "mpi": "mpirun"}
SILENCE = 45  # seconds without a sign of life after which a process counts as dead
BEAT = 3  # seconds between two of them
watch = None  # of this process, once it is one of several


def start(cfg: Config) -> None:
    """Join the other processes that ``cfg.launcher`` started; with ``'none'`` do nothing.

    With GPUs this is mmengine's ``init_dist``. Without, the processes talk over gloo, and DistributedDataParallel and
    SyncBN are those of this module. From here on a process that dies ends all others (:class:`Watch`).

    Raises:
        UserError: If the launcher's environment variables are missing or wrong, if there are fewer GPUs than
            processes, or if the processes don't find each other.
    """
    if cfg.launcher == "none" or dist.is_initialized():
        return
    names = VARIABLES[cfg.launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {cfg.launcher}: {', '.join(missing)} not set; it is for processes that "
            f"{STARTED_BY[cfg.launcher]} starts. For one process leave --launcher out"
        )
    try:
        rank, processes, local = (int(os.environ[name]) for name in names[:3])
    except ValueError:
        values = ", ".join(f"{name}={os.environ[name]}" for name in names[:3])
        raise UserError(f"--launcher {cfg.launcher}: these have to be numbers: {values}") from None
    env = cfg.get("env_cfg", {})
    options = dict(env.get("dist_cfg", {}))
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU: {torch.cuda.device_count()} visible. Start as many "
                "processes as there are GPUs, or hide them all (CUDA_VISIBLE_DEVICES=) to run on CPUs"
            )
        set_multi_processing(**env.get("mp_cfg", {}), distributed=True)  # before init_dist would, as the runner does
        init_dist(cfg.launcher, **options)
    else:
        if cfg.launcher == "slurm":
            hosts = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
            if "MASTER_ADDR" not in os.environ:
                os.environ["MASTER_ADDR"] = subprocess.check_output(hosts, text=True).split()[0]
        os.environ.setdefault("MASTER_PORT", str(options.get("port", 29500)))
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_RANK=str(local))
        try:
            dist.init_process_group("gloo", timeout=timedelta(seconds=options.get("timeout", 1800)))
        except (RuntimeError, ValueError) as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(f"rank {rank} of {processes} does not find the others at {place}: {error}") from error
        cfg.setdefault("model_wrapper_cfg", ConfigDict(find_unused_parameters=cfg.get("find_unused_parameters", False)))
        cfg.model_wrapper_cfg.setdefault("type", "van_mm.CPUDistributedDataParallel")
    global watch
    watch = Watch(rank, processes)
    watch.start()


class Watch(threading.Thread):
    """Ends this process where it would wait for another one for ever.

    Each process gives a sign of life every few seconds, and looks for that of the next rank; who ends with an error
    says so. Both go over the store at MASTER_ADDR, beside what torch keeps there. A process that was killed without a
    word is missed after ``SILENCE`` seconds, if torchrun or SLURM has not ended the job by then.
    """

    def __init__(self, rank: int, processes: int) -> None:
        super().__init__(daemon=True)
        self.rank, self.next = rank, (rank + 1) % processes
        self.over = threading.Event()
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=SILENCE),
        )
        self.store = dist.PrefixStore("van_mm", store)
        self.store.set(str(rank), "0")

    def run(self) -> None:
        heard, value, beat = time.monotonic(), b"", 0
        while not self.over.wait(BEAT):
            beat += 1
            try:
                self.store.set(str(self.rank), str(beat))
                if self.store.check(["error"]):
                    self.end(self.store.get("error").decode())
                if self.store.check([str(self.next)]):
                    found = self.store.get(str(self.next))
                    if found != value or found == b"over":
                        heard, value = time.monotonic(), found
                if time.monotonic() - heard > SILENCE:
                    self.end(self.fail(f"rank {self.next} has been silent for {SILENCE} seconds", rank=self.next))
            except RuntimeError:  # the store's host is gone; the others' turn is over when this process ends by itself
                if time.monotonic() - heard > SILENCE:
                    self.end(f"the process at {os.environ['MASTER_ADDR']} that all others meet at is gone")

    def end(self, message: str) -> None:
        """End the process at once, whatever its main thread waits for."""
        print(f"error: {message}; rank {self.rank} ends too", flush=True)
        os._exit(1)

    def fail(self, message: str, rank: int | None = None) -> str:
        """Say what ended a rank, this one by default; the first such message of the job."""
        own = f"rank {self.rank} ({socket.gethostname()}): {message}" if rank is None else message
        try:
            return self.store.compare_set("error", "", own).decode()
        except RuntimeError:
            return own

    def finish(self) -> None:
        """This rank is through. The thread is waited for: one that is at the store when Python ends aborts it."""
        self.over.set()
        self.join()
        with contextlib.suppress(RuntimeError):  # who kept the store is through too
            self.store.set(str(self.rank), "over")


def failed(message: str) -> str:
    """What to tell of an error in this process: the message, or whose failure it follows from."""
    if watch is None:
        return message
    first = watch.fail(message)
    watch.finish()
    return first


def finish() -> None:
    """Leave the other processes, all of them being through."""
    if watch is not None:
        watch.finish()
    if dist.is_initialized():
        dist.destroy_process_group()


class CPUSyncBatchNorm(_BatchNorm):
    """SyncBatchNorm for the CPU, where torch has none; over whatever backend the processes have."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass  # any, as SyncBatchNorm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...) with the statistics of all processes' pixels in training, else the running ones."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        others, shape = [axis for axis in range(x.dim()) if axis != 1], [1, -1] + [1] * (x.dim() - 2)
        count = torch.tensor([float(x.numel() // x.shape[1])])
        dist.all_reduce(count)
        mean = all_reduce(x.sum(others)) / count
        centred = x - mean.view(shape)
        var = all_reduce(centred.square().sum(others)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        slope = (var + self.eps).rsqrt()
        if not self.affine:
            return centred * slope.view(shape)
        return centred * (slope * self.weight).view(shape) + self.bias.view(shape)


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DistributedDataParallel for a model on the CPU, whose SyncBN becomes one that works there.

    Args:
        module (nn.Module): The model.
        kwargs: As for torch's ``DistributedDataParallel``; ``device_ids`` is left out.
    """

    def __init__(self, module: nn.Module, device_ids=None, broadcast_buffers: bool = False, **kwargs) -> None:
        for norm in module.modules():
            if isinstance(norm, nn.SyncBatchNorm):
                norm.__class__ = CPUSyncBatchNorm
        super().__init__(module, broadcast_buffers=broadcast_buffers, **kwargs)
