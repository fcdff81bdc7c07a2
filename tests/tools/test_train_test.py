"""tools/train.py and tools/test.py run end to end, with one message for each wrong input."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tests.conftest import ROOT
from van_mm.apis.assembly import check_pretrained_weights
from van_mm.apis.configs import CONFIG_DIR
from van_mm.checkpoints.io import read_checkpoint
from van_mm.models import VAN

CONFIGS = [
    "cls/van_b0_in1k",
    "det/retinanet_van_b0_1x_coco",
    "det/mask_rcnn_van_b0_1x_coco",
    "det/mask2former_van_b2_50e_coco_panoptic",
    "seg/upernet_van_b0",
    "pose/simplebaseline_van_b2_coco_256x192",
]


# After two training steps all scores are low. Without a threshold of 0, mmdet has no detections to evaluate.
KEEP_ALL = {
    "det/retinanet_van_b0_1x_coco": ("model.test_cfg.score_thr=0.0",),
    "det/mask_rcnn_van_b0_1x_coco": ("model.test_cfg.rcnn.score_thr=0.0",),
    "cls/van_b0_in1k": ("val_evaluator.topk=(1,500)", "test_evaluator.topk=(1,500)"),  # the labels are 417 and higher
}
ZERO = ("mask2former", "simplebaseline")  # methods that predict nothing right after two steps


def last_metrics(work_dir: Path) -> dict:
    """Return the metrics of the last evaluation of a run."""
    lines = [json.loads(line) for line in sorted(work_dir.glob("*/vis_data/scalars.json"))[-1].open()]
    return next(line for line in reversed(lines) if "loss" not in line)


def read_losses(work_dir: Path) -> list[float]:
    """Return the losses that the runs in a work dir have logged."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for file in files for line in file.open()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("config", CONFIGS)
def test_train_then_test(config, run_tool, demo_root, tmp_path):
    """Testing the checkpoint gives the metrics of the last validation, and resuming takes one more step from it."""
    demo = ("--demo", "--demo-root", demo_root, "--work-dir", tmp_path / "run")
    options = ("train_dataloader.batch_size=2", "default_hooks.logger.interval=1", "randomness.seed=0")
    options = ("--cfg-options", *options, *KEEP_ALL.get(config, ()))
    done = run_tool("train", config, *demo, *options, "--demo-iters", 2)
    assert done.returncode == 0, done.stdout
    assert "weights: random" in done.stdout
    trained = last_metrics(tmp_path / "run")
    losses = read_losses(tmp_path / "run")
    assert len(losses) == 2 and all(0 < loss < 1e4 for loss in losses)

    checkpoint = (tmp_path / "run/last_checkpoint").read_text()
    done = run_tool(
        "test", config, checkpoint, *demo, *options, "--out", tmp_path / "metrics.json", "--show-dir", tmp_path / "p"
    )
    assert done.returncode == 0, done.stdout
    tested = json.loads((tmp_path / "metrics.json").read_text())
    assert tested and len(list((tmp_path / "p").glob("*.png"))) >= 3
    assert tested == pytest.approx({key: trained[key] for key in tested})
    assert any(value > 0 for value in tested.values()) or any(name in config for name in ZERO)

    done = run_tool("train", config, *demo, *options, "--demo-iters", 3, "--resume", "--no-validate")
    assert done.returncode == 0, done.stdout
    resumed = torch.load(tmp_path / "run/iter_3.pth", weights_only=True)
    assert {state["step"].item() for state in resumed["optimizer"]["state"].values()} == {3}
    assert len(read_losses(tmp_path / "run")) == 3


def test_weights_of_one_task_start_another(run_tool, demo_root, tmp_path):
    """init_cfg of a pose estimator accepts a segmentor's checkpoint, and load_from accepts an official classifier."""
    demo = ("--demo", "--demo-root", demo_root, "--demo-iters", 1, "--no-validate", "--work-dir")
    options = ("--cfg-options", "train_dataloader.batch_size=2", "optim_wrapper.optimizer.lr=0.0")
    done = run_tool("train", "seg/upernet_van_b0", *demo, tmp_path / "seg", *options)
    assert done.returncode == 0, done.stdout
    (tmp_path / "pose.py").write_text(
        f"_base_ = {str(CONFIG_DIR / 'pose/simplebaseline_van_b2_coco_256x192.py')!r}\n"
        f"init_cfg = dict(checkpoint={str(tmp_path / 'seg/iter_1.pth')!r})\n"
        "model = dict(backbone=dict(arch='b0', init_cfg=init_cfg), head=dict(in_channels=256))\n"
    )
    done = run_tool("train", tmp_path / "pose.py", *demo, tmp_path / "pose", *options)
    assert done.returncode == 0, done.stdout
    official = VAN(arch="b0")
    official.init_weights()
    head = {"head.weight": torch.ones(1000, 256), "head.bias": torch.ones(1000)}
    torch.save(dict(state_dict=official.state_dict() | head), tmp_path / "van_tiny_754.pth.tar")
    load_from = f"load_from={tmp_path / 'van_tiny_754.pth.tar'}"
    done = run_tool("train", "cls/van_b0_in1k", *demo, tmp_path / "cls", *options, load_from)
    assert done.returncode == 0, done.stdout

    seg, pose, cls = (read_checkpoint(tmp_path / name / "iter_1.pth") for name in ("seg", "pose", "cls"))
    for key, value in official.named_parameters():
        assert torch.equal(pose["state_dict"][f"backbone.{key}"], seg["state_dict"][f"backbone.{key}"])
        torch.testing.assert_close(cls["state_dict"][f"backbone.{key}"], value)  # of the averaged weights
    assert torch.all(cls["state_dict"]["head.fc.weight"] == 1)


def test_resume_in_a_new_process(fork_tool, demo_root, tmp_path):
    """A run that stopped after two steps resumes from its checkpoint with the third step."""
    args = (
        "train",
        "det/retinanet_van_b0_1x_coco",
        "--demo",
        "--demo-root",
        demo_root,
        "--work-dir",
        tmp_path,
        "--demo-iters",
        3,
        "--no-validate",
        "--cfg-options",
        "default_hooks.checkpoint.interval=1",
        "default_hooks.logger.interval=1",
        "train_dataloader.batch_size=1",
    )
    (first,) = fork_tool(*args)
    assert first.wait().returncode == 0
    uninterrupted = torch.load(tmp_path / "iter_3.pth", weights_only=True)
    (tmp_path / "iter_3.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_2.pth"))
    (resumed,) = fork_tool(*args, "--resume")
    done = resumed.wait()
    assert done.returncode == 0, done.stdout
    assert "resumed epoch: 0, iter: 2" in done.stdout
    steps = re.findall(r"Iter\(train\) \[(\d)/3\]", done.stdout)
    assert steps == ["3"]
    continued = torch.load(tmp_path / "iter_3.pth", weights_only=True)
    assert continued["optimizer"]["state"][0]["step"] == uninterrupted["optimizer"]["state"][0]["step"] == 3


SMALLER = {
    "mmseg": {
        "train_cfg.max_iters": 2,
        "train_cfg.val_interval": 2,
        "train_dataloader.dataset.pipeline.2.scale": "(256,64)",
        "train_dataloader.dataset.pipeline.3.crop_size": "(64,64)",
        "model.data_preprocessor.size": "(64,64)",
        "val_dataloader.dataset.pipeline.1.scale": "(256,64)",
    },
    "mmdet": {
        "train_cfg.max_epochs": 1,
        "train_dataloader.dataset.pipeline.2.scale": "(320,192)",
        "val_dataloader.dataset.pipeline.1.scale": "(320,192)",
        "model.test_cfg.score_thr": 0.0,
    },
}


@pytest.mark.parametrize(
    ("codebase", "config", "data"),
    [("mmseg", "seg/upernet_van_b0.py", "ade"), ("mmdet", "det/retinanet_van_b0_1x_coco.py", "coco")],
)
def test_upstream_train_runs_our_config(codebase, config, data, run_process, demo_root, tmp_path):
    """The codebase's own tool trains a config of van_mm, with fewer steps, smaller images and random weights."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / data).symlink_to(demo_root / data)
    tool = Path(importlib.import_module(codebase).__file__).parent / ".mim/tools/train.py"
    done = run_process(
        tool,
        CONFIG_DIR / config,
        "--work-dir",
        tmp_path / "run",
        "--cfg-options",
        *(f"{key}={value}" for key, value in SMALLER[codebase].items()),
        "model.backbone.init_cfg=None",
        "default_hooks.logger.interval=1",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
    )
    assert done.returncode == 0, done.stdout
    losses, metrics = read_losses(tmp_path / "run"), last_metrics(tmp_path / "run")
    assert losses and all(0 < loss < 1e4 for loss in losses)
    assert 0 <= metrics["mIoU" if codebase == "mmseg" else "coco/bbox_mAP_50"] < 100
    checkpoint = torch.load(next((tmp_path / "run").glob("*.pth")), weights_only=False)
    assert {state["step"].item() for state in checkpoint["optimizer"]["state"].values()} == {len(losses)}


def refused(done, *words: str) -> None:
    """Assert that a tool ended with one message that contains these words, and without a traceback."""
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    message = done.stdout[done.stdout.index("error: ") :]
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("tool", ["train", "test"])
def test_help_does_not_import_torch(tool):
    code = (
        "import runpy, sys; sys.argv = ['t', '--help']; sys.path.insert(0, 'tools')\n"
        f"try: runpy.run_path('tools/{tool}.py', run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    assert "--demo" in done.stdout and "--launcher {none,pytorch,slurm,mpi}" in done.stdout


def test_unknown_config(run_tool):
    refused(run_tool("train", "seg/upernet_van_b9"), "no config 'seg/upernet_van_b9'", "seg/upernet_van_b2")


def test_missing_data(run_tool, tmp_path):
    done = run_tool("train", "seg/upernet_van_b2")
    refused(done, "data/ade/ADEChallengeData2016/images/training", "(missing)", "--demo")
    assert not (tmp_path / "work_dirs").exists()


def test_unknown_arch(run_tool, demo_root):
    done = run_tool(
        "train",
        "det/retinanet_van_b0_1x_coco",
        "--demo",
        "--demo-root",
        demo_root,
        "--cfg-options",
        "model.backbone.arch=b9",
    )
    refused(done, "unknown VAN arch 'b9'", "b0, b1")


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("https://localhost:9/van.pth", ("can't be downloaded", "put it at", "/van.pth", "init_cfg=None")),
        ("nowhere.pth", ("no checkpoint nowhere.pth",)),
    ],
)
def test_unavailable_pretrained_weights(checkpoint, words, run_tool, demo_root, tmp_path):
    (tmp_path / "data").symlink_to(demo_root)
    option = f"model.backbone.init_cfg.checkpoint={checkpoint}"
    refused(run_tool("train", "det/retinanet_van_b0_1x_coco", "--cfg-options", option), *words)


def test_upstream_weights_are_left_to_mmengine():
    init_cfg = dict(type="Pretrained", checkpoint="torchvision://resnet50")
    check_pretrained_weights(Config(dict(model=dict(backbone=dict(type="ResNet", init_cfg=init_cfg)))))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return a folder with a detector checkpoint that contains VAN-B1, and a truncated copy of it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    weights = {f"backbone.{key}": value for key, value in VAN(arch="b1").state_dict().items()}
    torch.save(dict(state_dict=weights), folder / "b1.pth")
    (folder / "cut.pth").write_bytes((folder / "b1.pth").read_bytes()[:100000])
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("nowhere.pth", ("no checkpoint", "nowhere.pth")),
        ("cut.pth", ("cut.pth (100000 bytes)", "cut short")),
        (
            "b1.pth",
            (
                "not of this config's model",
                "these are VAN-B1 weights, the model is VAN-B0",
                "of 400 keys",
                "78 missing",
                "of another shape",
            ),
        ),
    ],
)
def test_bad_checkpoint(checkpoint, words, run_tool, checkpoints, demo_root):
    done = run_tool(
        "test", "det/retinanet_van_b0_1x_coco", checkpoints / checkpoint, "--demo", "--demo-root", demo_root
    )
    refused(done, *words)


def test_flags_that_do_not_apply(run_tool, demo_root, checkpoints):
    train = ("train", "seg/upernet_van_b2")
    refused(run_tool(*train, "--demo-iters", 3), "--demo-iters goes with --demo")
    refused(run_tool(*train, "--demo", "--demo-iters", 0, "--demo-root", demo_root), "at least 1")
    done = run_tool(
        "test", "det/retinanet_van_b0_1x_coco", checkpoints / "b1.pth", "--demo", "--tta", "--demo-root", demo_root
    )
    refused(done, "no tta_model")
