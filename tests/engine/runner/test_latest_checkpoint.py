"""The checkpoint with the most training is resumed, whatever the times of the files say."""

import os

import pytest
import torch
from mmengine.logging import HistoryBuffer

from van_mm.engine.runner.checkpoint_files import find_latest_checkpoint


def write(path, epoch: int, iteration: int, age: int) -> None:
    torch.save(
        dict(
            meta=dict(epoch=epoch, iter=iteration),
            state_dict={"w": torch.randn(1000)},
            message_hub=dict(log_scalars={"loss": HistoryBuffer([1.0], [1])}),
        ),
        path,
    )
    os.utime(path, (1e9 - age, 1e9 - age))


@pytest.mark.parametrize("ages", [(0, 1, 2), (2, 1, 0), (0, 0, 0)])
def test_iteration_inside_decides(ages, tmp_path):
    for age, (name, epoch, iteration) in zip(
        ages, [("epoch_9", 9, 90), ("epoch_10", 10, 100), ("iter_95", 9, 95)], strict=True
    ):
        write(tmp_path / f"{name}.pth", epoch, iteration, age)
    assert find_latest_checkpoint(tmp_path) == (tmp_path / "epoch_10.pth", [])


def test_name_does_not_decide(tmp_path):
    write(tmp_path / "iter_9.pth", 0, 300, age=5)
    write(tmp_path / "iter_200.pth", 0, 200, age=0)
    assert find_latest_checkpoint(tmp_path)[0].name == "iter_9.pth"


def test_epochs_of_another_length(tmp_path):
    """With a larger batch, later epochs can end at a lower iteration."""
    write(tmp_path / "epoch_3.pth", 3, 300, age=0)
    write(tmp_path / "epoch_4.pth", 4, 200, age=0)
    assert find_latest_checkpoint(tmp_path)[0].name == "epoch_4.pth"


def test_broken_files_are_skipped(tmp_path):
    for step in (2, 4, 6):
        write(tmp_path / f"iter_{step}.pth", 0, step, age=step)
    (tmp_path / "iter_6.pth").write_bytes((tmp_path / "iter_6.pth").read_bytes()[:500])
    (tmp_path / "iter_8.pth").touch()
    latest, broken = find_latest_checkpoint(tmp_path)
    assert latest.name == "iter_4.pth" and [path.name for path in broken] == ["iter_8.pth", "iter_6.pth"]


def test_foreign_content_is_not_skipped(tmp_path):
    """A whole file that the safe reader refuses is chosen, so that its own error is shown."""
    write(tmp_path / "iter_2.pth", 0, 2, age=0)
    torch.save(dict(state_dict={}, run=os.system), tmp_path / "iter_4.pth")
    assert find_latest_checkpoint(tmp_path)[0].name == "iter_4.pth"
