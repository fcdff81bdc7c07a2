"""Write checkpoint files atomically, and find the latest complete one."""

import contextlib
import os
import tempfile
import zipfile
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from van_mm.checkpoints.io import read_checkpoint_file
from van_mm.utils.errors import UserError, WeightsError


@register_backend("van_mm.AtomicBackend")
class AtomicBackend(LocalBackend):
    """A local file backend that writes a file completely or not at all.

    mmengine's CheckpointHook uses it if ``default_hooks.checkpoint.backend_args`` is
    ``dict(backend='van_mm.AtomicBackend')``. ``tools/train.py`` sets this. Only :meth:`put`, which writes checkpoints,
    is atomic. All other methods are those of ``LocalBackend``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a temporary file in the same folder, flush it to the disk, and rename it to ``filepath``.

        The folder is flushed, too, because a power failure could otherwise undo the renaming.

        Args:
            obj (bytes): Content of the file.
            filepath (str | Path): Path of the file. Its folder is created if it does not exist.

        Raises:
            UserError: If the file cannot be written, for example on a full disk. An existing file is then unchanged.
        """
        path = Path(filepath)
        draft = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f".{path.name}-*"):  # of a process that was killed
                leftover.unlink()
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
                draft = file.name
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(draft, 0o644)
            os.replace(draft, path)
            draft = None
            flush_folder(path.parent)
        except OSError as error:
            if draft is not None:
                with contextlib.suppress(OSError):
                    os.unlink(draft)
            raise UserError(
                f"{path} ({len(obj) / 2**20:.0f} MB) can't be written: {error.strerror}. Earlier checkpoints are "
                "whole. Fix the cause and continue with --resume"
            ) from error


def flush_folder(folder: Path) -> None:
    """Write the names of the files in a folder to the disk, where the system and the file system support it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint is a zip archive, as PyTorch writes since 1.6, all of whose checksums match."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


def find_latest_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[Path]]:
    """Return the complete checkpoint of a run with the most training, and the broken ones that it is chosen over.

    Args:
        work_dir (str | Path): Folder of the checkpoints ``epoch_N.pth`` and ``iter_N.pth``. The epoch and the iteration
            inside decide, because the times of files change when a folder is copied. The file ``last_checkpoint`` is
            not read, because a kill can leave it empty or outdated.

    Returns:
        tuple[Path | None, list[Path]]: The checkpoint, or None if no checkpoint is complete. The broken checkpoints,
        latest first.
    """
    checkpoints = [path for kind in ("epoch", "iter") for path in Path(work_dir).glob(f"{kind}_*.pth")]
    progress = {path: read_progress(path) for path in checkpoints}
    broken = sorted((path for path in checkpoints if progress[path] is None), key=parse_step, reverse=True)
    for path in sorted(set(checkpoints) - set(broken), key=progress.get, reverse=True):
        if is_complete(path):
            return path, broken
        broken.append(path)
    return None, broken


def read_progress(checkpoint: Path) -> tuple[int, int, int] | None:
    """Return the epoch, the iteration and the time of a checkpoint, or None if it is broken.

    The weights are not read from the disk. A file without mmengine's meta data has the iteration of its name.
    """
    try:
        meta = read_checkpoint_file(checkpoint, mmap=True).get("meta")
    except (WeightsError, OSError):
        if not is_complete(checkpoint):
            return None
        meta = None  # whole, but with content that is not allowed, which is an error if the run resumes from it
    meta = meta if isinstance(meta, dict) else {}
    step = int(meta.get("iter") or parse_step(checkpoint))
    return int(meta.get("epoch") or 0), step, checkpoint.stat().st_mtime_ns


def parse_step(checkpoint: Path) -> int:
    """Return N of ``epoch_N.pth`` or ``iter_N.pth``, or 0 for another name."""
    number = checkpoint.stem.partition("_")[2]
    return int(number) if number.isdigit() else 0
