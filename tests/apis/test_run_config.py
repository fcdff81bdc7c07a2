"""In a job of several processes, one of them does what is needed once, and all have the same config."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from mmengine.logging import MMLogger

from tests.conftest import forget, fork_process, free_port, set_job_variables
from van_mm.apis import backbone_swap
from van_mm.apis.run_config import dump_config, get_run_config
from van_mm.demo import demo_data
from van_mm.demo.demo_data import make_demo_data
from van_mm.engine.distributed.processes import take_turns

RESNET = "mmpretrain::resnet/resnet18_8xb32_in1k"


def run_ranks(function, folder: Path, local_ranks: list[int]) -> list[str]:
    """Call a function in forks with the variables of torchrun, and return what each rank printed."""
    port = free_port()
    logs = [folder / f"rank_{rank}.log" for rank in range(len(local_ranks))]

    def run(rank: int) -> None:
        set_job_variables(rank, local_ranks[rank], len(local_ranks), port)
        function(rank)

    pids = [fork_process(partial(run, rank), log) for rank, log in enumerate(logs)]
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    texts = [log.read_text() for log in logs]
    assert codes == [0] * len(pids), texts
    return texts


def test_one_rank_swaps_the_backbone(tmp_path, monkeypatch):
    swap_backbone = backbone_swap.swap_backbone
    monkeypatch.setattr(backbone_swap, "swap_backbone", lambda *args: print("swapping") or swap_backbone(*args))

    def run(rank):
        forget(MMLogger)  # its handlers may write to streams of earlier tests
        options = dict(backbone="b0", paper_optimizer=True, demo=True, launcher="pytorch")
        cfg = get_run_config(RESNET, **options, cfg_options={"env_cfg.dist_cfg.timeout": 60})
        (tmp_path / f"{rank}.json").write_text(json.dumps(cfg._cfg_dict.to_dict(), sort_keys=True, default=str))

    first, second = run_ranks(run, tmp_path, [0, 1])
    assert first.count("swapping") == first.count("--demo changes") == 1 and "ResNet -> VAN-B0" in first
    assert not {"swapping", "--demo changes", "--backbone"} & set(second.split()) and "changes" not in second
    configs = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert configs[0] == configs[1] and configs[0]["work_dir"].endswith("resnet18_8xb32_in1k_van_b0")
    assert configs[0]["model"]["backbone"]["arch"] == "b0"
    assert configs[0]["model_wrapper_cfg"]["type"] == "van_mm.CPUDistributedDataParallel"


def test_one_rank_dumps(tmp_path, monkeypatch):
    for rank, is_written in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        dump_config("cls/van_b0_in1k", tmp_path / "dumped.py", launcher="pytorch")
        assert (tmp_path / "dumped.py").exists() == is_written


@pytest.mark.parametrize(
    ("shared", "num_writes"), [(True, 1), (False, 2)], ids=["one disk for all", "a disk for each machine"]
)
def test_take_turns(shared, num_writes, tmp_path):
    """On two machines of two ranks, a file is fetched once per job, or once per machine if they share no disk."""

    def run(rank):
        file = tmp_path / ("file" if shared else f"file_of_machine_{rank // 2}")
        dist.init_process_group("gloo")
        with take_turns():
            if not file.exists():
                print("fetched")
                file.touch()

    logs = run_ranks(run, tmp_path, [0, 1, 0, 1])
    assert [log.count("fetched") for log in logs] == ([1, 0, 0, 0] if shared else [1, 0, 1, 0])
    assert sum(log.count("fetched") for log in logs) == num_writes


def test_demo_data_of_a_faster_process_stays(tmp_path, monkeypatch):
    """Two processes start to draw the same data. The slower one leaves the folder alone that the other reads."""
    folder, write = tmp_path / "imagenet", demo_data.write_imagenet
    faster = []

    def write_slowly(draft, **sizes):
        if not faster:
            faster.append(True)
            make_demo_data("ImageNet", folder, train=1, val=1)
            faster.append(folder.stat().st_ino)
        write(draft, **sizes)

    write_slowly.__name__ = write.__name__
    monkeypatch.setitem(demo_data.WRITERS, "ImageNet", write_slowly)
    make_demo_data("ImageNet", folder, train=1, val=1)
    assert folder.stat().st_ino == faster[1] and [path.name for path in tmp_path.iterdir()] == ["imagenet"]
    (folder / ".demo.json").write_text("{}")  # of an older version
    make_demo_data("ImageNet", folder, train=1, val=1)
    assert folder.stat().st_ino != faster[1] and "version" in (folder / ".demo.json").read_text()
