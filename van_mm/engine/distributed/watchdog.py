"""Notice that another process of the job has died, and end this one."""

import contextlib
import os
import socket
import threading
import time
from datetime import timedelta

import torch.distributed as dist

HEARTBEAT_TIMEOUT = 45  # seconds without a heartbeat after which a process counts as dead
HEARTBEAT_INTERVAL = 3  # seconds between heartbeats


class Watchdog(threading.Thread):
    """A thread that ends this process if it would wait forever for a process that has died.

    Each rank sends a heartbeat every ``HEARTBEAT_INTERVAL`` seconds and checks the heartbeat of the next rank. A rank
    that fails with an error reports the error, and all other ranks end at their next heartbeat. A rank that is killed
    cannot report anything. It is missed after ``HEARTBEAT_TIMEOUT`` seconds, unless torchrun or SLURM ends the job
    earlier.

    The heartbeats go through the ``torch.distributed`` store at ``MASTER_ADDR`` and ``MASTER_PORT``, under a prefix of
    their own. They come from this thread, so a rank whose main thread hangs does not count as dead.

    Args:
        rank (int): Rank of this process.
        processes (int): Number of processes of the job.
    """

    def __init__(self, rank: int, processes: int) -> None:
        super().__init__(daemon=True)
        self.rank, self.next_rank = rank, (rank + 1) % processes
        self.stopped = threading.Event()
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=HEARTBEAT_TIMEOUT),
        )
        self.store = dist.PrefixStore("van_mm", store)
        self.store.set(str(rank), "0")

    def run(self) -> None:
        last_time, last_heartbeat, count = time.monotonic(), b"", 0
        while not self.stopped.wait(HEARTBEAT_INTERVAL):
            count += 1
            try:
                self.store.set(str(self.rank), str(count))
                if self.store.check(["error"]):
                    self.end_process(self.store.get("error").decode())
                if self.store.check([str(self.next_rank)]):
                    heartbeat = self.store.get(str(self.next_rank))
                    if heartbeat != last_heartbeat or heartbeat == b"finished":
                        last_time, last_heartbeat = time.monotonic(), heartbeat
                if time.monotonic() - last_time > HEARTBEAT_TIMEOUT:
                    message = f"rank {self.next_rank} has sent no heartbeat for {HEARTBEAT_TIMEOUT} seconds"
                    self.end_process(self.fail(message, rank=self.next_rank))
            except RuntimeError:  # The store ended with its process. This process may still finish by itself in time.
                if time.monotonic() - last_time > HEARTBEAT_TIMEOUT:
                    self.end_process(f"the process that keeps the store at {os.environ['MASTER_ADDR']} is gone")

    def end_process(self, message: str) -> None:
        """Print the message and end this process at once, even if its main thread is blocked."""
        print(f"error: {message}; rank {self.rank} ends too", flush=True)
        os._exit(1)

    def fail(self, message: str, rank: int | None = None) -> str:
        """Report why a rank failed.

        Args:
            message (str): The error. The number and host of this rank are added if ``rank`` is None.
            rank (int, optional): The rank that failed. Defaults to this rank.

        Returns:
            str: The first message that any rank of the job has reported.
        """
        report = f"rank {self.rank} ({socket.gethostname()}): {message}" if rank is None else message
        try:
            return self.store.compare_set("error", "", report).decode()
        except RuntimeError:
            return report

    def finish(self) -> None:
        """Stop the thread and mark this rank as finished.

        The thread has to end first, because a thread that uses the store while Python exits aborts the process.
        """
        self.stopped.set()
        self.join()
        with contextlib.suppress(RuntimeError):  # the process that keeps the store may have finished earlier
            self.store.set(str(self.rank), "finished")
