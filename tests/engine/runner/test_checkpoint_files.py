"""Checkpoint files are either complete or absent, and a run resumes from the latest complete checkpoint."""

import errno
import os
import shutil
import stat

import pytest
import torch
from mmengine.config import Config

from tests.tools.test_train_test import refused
from van_mm.engine.runner.checkpoint_files import AtomicBackend, find_latest_checkpoint, is_complete
from van_mm.utils.errors import UserError

TRAIN = ("train", "cls/van_b0_in1k", "--demo", "--no-validate")


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "run/iter_1.pth"
    AtomicBackend().put(b"first", file)
    assert file.read_bytes() == b"first"

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"iter_1\.pth \(0 MB\) can't be written: No space left on device.*--resume"):
        AtomicBackend().put(b"second", file)
    assert file.read_bytes() == b"first" and [p.name for p in file.parent.iterdir()] == ["iter_1.pth"]


def test_renaming_is_flushed(tmp_path, monkeypatch):
    """The folder is flushed after the renaming. A file system that cannot do this is no error."""
    file, flushed = tmp_path / "iter_1.pth", []

    def flush(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            flushed.append((os.fstat(descriptor).st_ino, file.read_bytes()))
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", flush)
    AtomicBackend().put(b"weights", file)
    assert flushed == [(tmp_path.stat().st_ino, b"weights")]


def test_full_disk_stops_the_run(run_tool, demo_root, tmp_path, monkeypatch):
    """When the second checkpoint does not fit, the first stays complete and --resume continues from it."""
    writes, real = [], os.fsync

    def full(descriptor):
        writes.extend([descriptor] * stat.S_ISREG(os.fstat(descriptor).st_mode))
        if len(writes) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", 3)
    options = ("--cfg-options", "train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=1")
    refused(run_tool(*train, *options), "iter_2.pth", "No space left on device", "Earlier checkpoints are whole")
    assert [file.name for file in (tmp_path / "run").glob("*.pth")] == ["iter_1.pth"] and is_complete(
        tmp_path / "run/iter_1.pth"
    )
    assert (tmp_path / "run/last_checkpoint").read_text().endswith("iter_1.pth")
    done = run_tool(*train, "--resume", *options)
    assert done.returncode == 0 and is_complete(tmp_path / "run/iter_3.pth"), done.stdout


def test_latest_is_the_newest_complete_checkpoint(tmp_path):
    assert find_latest_checkpoint(tmp_path / "none") == (None, [])
    for step in (2, 4, 10):
        torch.save(dict(state_dict={"w": torch.randn(100)}), tmp_path / f"iter_{step}.pth")
    first, second, third = (tmp_path / f"iter_{step}.pth" for step in (2, 4, 10))
    assert find_latest_checkpoint(tmp_path) == (third, [])
    third.write_bytes(third.read_bytes()[:-50])  # truncated
    data = bytearray(second.read_bytes())
    offset = data.index(torch.load(second)["state_dict"]["w"].numpy().tobytes())
    data[offset + 7] ^= 1  # flip one bit
    second.write_bytes(data)
    assert not is_complete(second) and not is_complete(third)
    for age, file in enumerate((third, second, first)):
        os.utime(file, (1e9 - age, 1e9 - age))
    assert find_latest_checkpoint(tmp_path) == (first, [third, second])


def test_resume_skips_a_broken_checkpoint(run_tool, demo_root, tmp_path):
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run")
    options = ("--cfg-options", "train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=1")
    done = run_tool(*train, "--demo-iters", 3, *options)
    assert done.returncode == 0, done.stdout
    assert not list((tmp_path / "run").glob(".*"))
    newest = tmp_path / "run/iter_3.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "run/last_checkpoint").write_text("")  # the state after a kill during the write
    done = run_tool(*train, "--demo-iters", 3, "--resume", *options)
    assert done.returncode == 0, done.stdout
    assert "iter_3.pth is broken or cut short" in done.stdout and "iter: 2" in done.stdout
    assert is_complete(newest)
    shutil.rmtree(tmp_path / "run")
    done = run_tool(*train, "--demo-iters", 1, "--resume", *options)
    assert done.returncode == 0 and "no checkpoint to resume from" in done.stdout


def test_work_dir_that_cannot_be_written(run_tool, demo_root, tmp_path):
    (tmp_path / "file").touch()
    done = run_tool(*TRAIN, "--demo-root", demo_root, "--demo-iters", 1, "--work-dir", tmp_path / "file/run")
    refused(done, str(tmp_path / "file"))


def test_user_backend_is_kept(run_tool, demo_root, tmp_path):
    """The tools do not replace a checkpoint backend that the user has set."""
    train = (*TRAIN, "--demo-root", demo_root, "--work-dir", tmp_path / "run", "--demo-iters", 1)
    options = ("train_dataloader.batch_size=2", "default_hooks.checkpoint.backend_args.backend=local")
    assert run_tool(*train, "--cfg-options", *options).returncode == 0
    dumped = Config.fromfile(next((tmp_path / "run").glob("*.py")))
    assert dumped.default_hooks.checkpoint.backend_args.backend == "local"
    assert (tmp_path / "run/iter_1.pth").exists()
