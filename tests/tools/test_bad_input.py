"""Every wrong input ends a tool with one message, a nonzero exit code and no partly written file."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.tools.test_train_test import refused
from van_mm import get_config
from van_mm.apis.build import build_random_model

CLS, DET, SEG, POSE = (
    "cls/van_b0_in1k",
    "det/retinanet_van_b0_1x_coco",
    "seg/semantic_fpn_van_b0",
    "pose/simplebaseline_van_b2_coco_256x192",
)
SALIENCY, PANOPTIC = "seg/edn_van_b1_duts", "det/mask2former_van_b2_50e_coco_panoptic"
DEMO = "--demo --demo-root DATA --demo-iters 1 --work-dir RUN"

# Wrong config files, by name.
CONFIGS = {
    "no_python.py": "model = dict(type=",
    "empty.py": "",
    "no_scope.py": "model = dict(type='VAN')",
    "other_scope.py": "default_scope = 'mmagic'\nmodel = dict()",
    "no_model.py": "default_scope = 'mmdet'",
    "no_base.py": "_base_ = './nowhere.py'",
    "no_upstream_base.py": "_base_ = 'mmdet::_base_/models/nowhere.py'",
    "no_module.py": "custom_imports = dict(imports=['nowhere'])",
    "fails.py": "x = 1 / 0",
    "twice.py": "_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/models/faster-rcnn_r50_fpn.py']",
}
# Tools that take a config, with the arguments before and after it.
CONFIG_TOOLS = {
    "train": ("", ""),
    "test": ("", "GOOD"),
    "infer": ("", "GOOD PICTURE"),
    "deploy/export_onnx": ("", "GOOD"),
    "visualization/browse_dataset": ("", ""),
    "visualization/vis_scheduler": ("", ""),
    "visualization/vis_attention": ("", "GOOD PICTURE"),
    "visualization/vis_cam": ("PICTURE --model", "GOOD"),
    "misc/check_dataset": ("", ""),
}
CASES = []  # tool, arguments, words that the message contains


def case(tool: str, arguments: str, *words: str) -> None:
    """Add a case."""
    CASES.append((tool, arguments, words))


R50 = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco"
# ---- Configs
for tool, (before, after) in CONFIG_TOOLS.items():
    case(tool, f"{before} cls/van_b9_in1k {after}", "no config 'cls/van_b9_in1k'", "cls/van_b")
for name, words in {
    "no_python.py": ("does not load", "SyntaxError"),
    "empty.py": ("default_scope is None",),
    "no_scope.py": ("default_scope is None", "mmpretrain, mmdet, mmseg, mmpose"),
    "other_scope.py": ("default_scope is 'mmagic'",),
    "no_model.py": ("has no 'model'",),
    "no_base.py": ("does not load", "nowhere.py"),
    "no_upstream_base.py": ("does not load", "nowhere.py"),
    "no_module.py": ("does not load", "nowhere"),
    "fails.py": ("does not load", "ZeroDivisionError"),
    "twice.py": ("does not load", "Duplicate key"),
}.items():
    case("train", f"CONFIGS/{name}", *words)
case("train", "CONFIGS", "no config")
case("train", "mmdet::retinanet/nothing.py", "no config", "mmdet::retinanet/")
case("train", "mmnothing::a/b.py", "the package mmnothing is not installed")
case("train", "PICTURE", "does not load")

# ---- Another backbone
case("train", f"{R50} --backbone b9", "unknown VAN arch 'b9'", "b0, b1")
case("train", f"{R50} --backbone b0 --optim van --dump PICTURE/mine.py", "picture.jpg")
for config, *words in (
    ("dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco", "ResNet has dcn inside of its stages"),
    ("gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco", "ResNet has plugins inside of its stages"),
    ("faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco", "roi_head.shared_head (ResLayer) is the last stage of ResNet"),
    ("faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco", "boxes are placed by strides of [16]"),
    ("cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco", "model.bbox_head reads 2 alike maps"),
    ("strongsort/strongsort_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test", "this one has 2: model.detector"),
):
    case("train", f"mmdet::{config} --backbone b0", *words)
case("train", "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024 --backbone b0", "strides")

# ---- Config options
for config, option, words in [
    (CLS, "modle.backbone.arch=b1", ("has no 'modle'", "model")),
    (CLS, "model.backbone.drop_path=0.1", ("model.backbone has no 'drop_path'", "drop_path_rate")),
    (CLS, "train_dataloader.batchsize=2", ("train_dataloader has no 'batchsize'", "batch_size")),
    (CLS, "optim_wraper.optimizer.lr=1", ("has no 'optim_wraper'", "optim_wrapper")),
    (CLS, "optim_wrapper.optimizer.learning_rate=1", ("has no 'learning_rate'", "lr")),
    (CLS, "train_cfg.max_epoch=1", ("has no 'max_epoch'", "max_iters")),
    (CLS, "default_hooks.checkpoint.intervall=1", ("has no 'intervall'", "interval")),
    (CLS, "model.head.num_class=3", ("has no 'num_class'", "num_classes")),
    (CLS, "train_dataloader.dataset.pipeline.9.scale=3", ("is a list of", "give 0 to")),
    (CLS, "custom_hooks.x.momentum=1", ("is a list of",)),
    (SEG, "model.decode_head.dropout=0.1", ("has no 'dropout'", "dropout_ratio")),
    (SEG, "val_evaluator.iou_metric=mIoU", ("has no 'iou_metric'", "iou_metrics")),
    (DET, "model.test_cfg.score_thr=0.1 model.neck.in_channel=3", ("has no 'in_channel'", "in_channels")),
    (POSE, "model.head.in_chanels=3", ("has no 'in_chanels'", "in_channels")),
    (CLS, "model.backbone.arch=b9", ("unknown VAN arch 'b9'", "b0, b1")),
    (CLS, "model.backbone.type=VAM", ("does not build", "VAM")),
    (CLS, "model.backbone.type=ResNet", ("does not build",)),
    (CLS, "model.backbone.out_indices=(7,)", ("out_indices",)),
    (CLS, "model.backbone.drop_path_rate=high", ("drop_path_rate=high",)),
    (CLS, "model.backbone.frozen_stages=9", ("frozen_stages",)),
    (CLS, "model.head.in_channels=7", ("7",)),
    (CLS, "model.head.num_classes=many", ("does not build",)),
    (CLS, "train_dataloader.batch_size=two", ("does not build", "batch_size")),
    (CLS, "train_dataloader.batch_size=0", ("does not build", "batch_size")),
    (CLS, "train_dataloader.num_workers=-1", ("does not build", "num_workers")),
    (CLS, "train_dataloader.dataset.type=ImagNet", ("no demo data for data set 'ImagNet'", "ImageNet")),
    (CLS, "train_dataloader.dataset.pipeline.0.type=LoadImage2", ("does not build", "LoadImage2")),
    (CLS, "train_dataloader.sampler.type=Any", ("does not build", "Any")),
    (CLS, "optim_wrapper.optimizer.type=AdamV", ("does not build",)),
    (CLS, "optim_wrapper.optimizer.lr=fast", ("does not build", "'float' and 'str'")),
    (CLS, "optim_wrapper.optimizer.lr=-1", ("does not build", "learning rate")),
    (CLS, "param_scheduler.0.type=StepsLR", ("does not build", "StepsLR")),
    (CLS, "train_cfg.max_iters=some", ("does not build", "some")),
    (CLS, "train_cfg.type=NoLoop", ("does not build", "NoLoop")),
    (CLS, "val_evaluator.type=Precision", ("does not build", "Precision")),
    (CLS, "custom_hooks.0.type=EMAHoook", ("does not build", "EMAHoook")),
    (CLS, "default_hooks.logger.type=Logger", ("does not build", "Logger")),
    (CLS, "log_level=LOUD", ("does not build", "LOUD")),
    (CLS, "randomness.seed=abc", ("does not build", "scalar")),
    (CLS, "load_from=nowhere.pth", ("nowhere.pth",)),
    (CLS, "load_from=TEXT", ("text.pth",)),
    (SEG, "model.decode_head.num_classes=20", ("model.decode_head.num_classes is 20", "150 classes")),
    (SEG, "model.neck.in_channels=[1,2]", ("validation fails on its first batch", "len(self.in_channels)")),
    (SEG, "model.decode_head.loss_decode.type=Loss", ("does not build", "Loss")),
    (DET, "model.bbox_head.num_classes=3", ("model.bbox_head.num_classes is 3", "80 classes")),
    (
        DET,
        "train_dataloader.dataset.metainfo.classes=('book','unicorn')",
        ("no categories unicorn (1 of the 2 classes)",),
    ),
    (DET, "train_dataloader.dataset.ann_file=nowhere.json", ("nowhere.json does not exist",)),
    (DET, "train_dataloader.dataset.data_prefix.img=nowhere", ("nowhere does not exist",)),
    (DET, "val_evaluator.ann_file=nowhere.json", ("nowhere.json",)),
    (POSE, "train_dataloader.dataset.ann_file=nowhere.json", ("nowhere.json does not exist",)),
    (POSE, "model.head.out_channels=x", ("does not build",)),
    (SALIENCY, "train_dataloader.dataset.subset=ECSSD", ("unknown saliency set 'ECSSD'", "DUTS-TR")),
]:
    case("train", f"{config} {DEMO} --cfg-options {option}", *words)

# ---- Training
train = f"{CLS} {DEMO}"
case("train", f"{CLS} --demo-iters 3", "--demo-iters goes with --demo")
case("train", f"{train} --demo-iters 0", "at least 1")
case("train", f"{train} --max-bad-data 2", "--max-bad-data is a fraction")
case("train", f"{train} --resume nowhere.pth", "no checkpoint nowhere.pth")
case("train", f"{train} --resume TEXT", "text.pth")
case("train", f"{train} --resume CUT", "cut.pth", "cut short")
case("train", f"{train} --resume EMPTY", "empty.pth")
case("train", f"{train} --resume OTHER", "not of this config's model")
case("train", f"{train} --launcher pytorch", "--launcher pytorch", "MASTER_ADDR", "dist_train.sh")
case("train", f"{train} --launcher slurm", "--launcher slurm", "SLURM_PROCID", "slurm_train.sh")
case("train", f"{train} --launcher mpi", "--launcher mpi", "OMPI_COMM_WORLD_RANK")
case("train", f"{CLS} --demo --demo-root DATA --demo-iters 1 --work-dir PICTURE/run", "picture.jpg")
case("train", f"{CLS} --demo --demo-root DATA --demo-iters 1 --work-dir /proc/nothing", "/proc/nothing")
case("train", f"{DET} --demo --demo-root PICTURE --work-dir RUN", "picture.jpg")
case("train", CLS, "data/imagenet", "does not exist", "--demo")
case("train", f"{PANOPTIC} --work-dir RUN", "data/coco", "does not exist", "--demo")

# ---- Testing
test = f"{CLS} GOOD {DEMO}"
case("test", f"{CLS} nowhere.pth {DEMO}", "no checkpoint nowhere.pth")
case("test", f"{CLS} TEXT {DEMO}", "text.pth")
case("test", f"{CLS} CUT {DEMO}", "cut.pth", "cut short")
case("test", f"{CLS} EMPTY {DEMO}", "empty.pth")
case("test", f"{CLS} CODE {DEMO}", "code.pth")
case("test", f"{CLS} NAN {DEMO}", "NaN")
case("test", f"{CLS} OTHER {DEMO}", "not of this config's model")
case("test", f"{CLS} CONFIGS {DEMO}", "configs")
case("test", f"{DET} GOOD {DEMO}", "not of this config's model")
case("test", f"{test} --out metrics.txt", "--out metrics.txt", "FILE.json")
case("test", f"{test} --out PICTURE/metrics.json", "picture.jpg")
case("test", f"{test} --show-dir PICTURE/panels", "picture.jpg")
case("test", f"{test} --tta --cfg-options tta_model=None", "no tta_model")
case("test", f"{CLS} GOOD", "does not exist", "--demo")

# ---- Inference
infer = f"{CLS} GOOD"
case("infer", f"{infer} nowhere.jpg", "nowhere.jpg")
case("infer", f"{infer} CONFIGS", "configs")
case("infer", f"{infer} PICTURE --batch-size 0", "--batch-size")
case("infer", f"{infer} PICTURE --device tpu9", "tpu9")
case("infer", f"{infer} PICTURE --device cuda", "cuda")
case("infer", f"{infer} PICTURE --top 0", "--top")
case("infer", f"{infer} PICTURE --out-dir PICTURE/out", "picture.jpg")
case("infer", f"{CLS} TEXT PICTURE", "text.pth")
case("infer", f"{POSE} GOOD PICTURE --person-boxes TEXT", "--person-boxes", "neither a list of detections")

# ---- Export and conversion
case("deploy/export_onnx", f"{CLS} GOOD --size 0 32", "--size")
case("deploy/export_onnx", f"{CLS} GOOD --out PICTURE/a.onnx", "picture.jpg")
case("deploy/export_onnx", f"{CLS} TEXT", "text.pth")
case("model_converters/convert_van", "TEXT out.pth --to official", "text.pth")
case("model_converters/convert_van", "nowhere.pth out.pth --to official", "nowhere.pth")
case("model_converters/convert_van", "GOOD PICTURE/out.pth --to official", "picture.jpg")
case("model_converters/publish_model", "nowhere.pth out.pth", "nowhere.pth")
case("model_converters/publish_model", "TEXT out.pth", "text.pth")
case("dataset_converters/saliency", "nowhere", "nowhere")
case("dataset_converters/saliency", "DATA/saliency --subset ECSSD", "ECSSD")

# ---- Analysis
case("analysis/benchmark", "--backbones van_b9", "van_b9")
case("analysis/benchmark", "--backbones b0 --cases 224", "224")
case("analysis/benchmark", "--backbones b0 --device tpu9", "tpu9")
case("analysis/benchmark", "--backbone b2", "--backbone goes with --configs")
case("analysis/benchmark", "--configs CONFIGS/no_python.py", "does not load", "SyntaxError")
case("analysis/benchmark", f"--configs {SEG} --backbone b9", "unknown VAN arch 'b9'")
case("analysis/benchmark", f"--configs {R50}", "has no VAN; put one in with --backbone")
case("analysis/benchmark", "--configs cls/van_b9_in1k", "cls/van_b9_in1k")
case("analysis/paper_tables", "--table 99", "99")
case("analysis/paper_tables", "--work-dirs nowhere", "nowhere")
case("analysis/paper_tables", "--backbone b2", "--backbone and --input go with --configs")
case("analysis/paper_tables", "--configs CONFIGS/no_scope.py", "no_scope.py: default_scope is None")
case("analysis/paper_tables", "--configs CONFIGS/twice.py", "does not load", "Duplicate key")
case("analysis/paper_tables", f"--configs {R50} --backbone b9", "unknown VAN arch 'b9'")
case("misc/sweep_upstream", "--match mmdet::nothing", "no config of an installed codebase has such a name")
case("analysis/analyze_logs", "nowhere", "nowhere")
case("analysis/analyze_logs", "TEXT", "text.pth")
case("analysis/plot_tradeoffs", "--benchmark nowhere.json", "nowhere.json")
case("analysis/plot_tradeoffs", "--benchmark TEXT", "text.pth")

# ---- Visualization and data inspection
case("visualization/vis_cam", f"PICTURE --model {CLS} GOOD --target unicorn", "unicorn")
case("visualization/vis_cam", f"PICTURE --model {CLS} GOOD --target-layer nothing", "nothing")
case("visualization/vis_cam", f"nowhere.jpg --model {CLS} GOOD", "nowhere.jpg")
case("visualization/vis_attention", f"{CLS} GOOD PICTURE --blocks 9.9", "9.9")
case("visualization/vis_attention", f"{CLS} GOOD nowhere.jpg", "nowhere.jpg")
case("visualization/vis_erf", "--backbones van_b9", "van_b9")
case("visualization/vis_erf", "--backbones b0 --size 0", "--size")
case("visualization/browse_dataset", f"{CLS} --num 0", "--num")
case("visualization/vis_scheduler", f"{CLS} --gpus 0", "--gpus")
case("misc/check_dataset", CLS, "does not exist", "--demo")

# ---- Damaged data: each case changes a copy of the demo data --------------------------------------------------------
BAD_SAMPLES = "samples of the data set can't be used"
COCO, ADE = "coco/annotations/instances_train2017.json", "ade/ADEChallengeData2016"


def edit(change):
    """Return a function that changes the content of a JSON file."""

    def apply(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return apply


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def each(damage):
    """Return a function that damages every file in a folder."""

    def apply(folder: Path) -> None:
        for file in folder.rglob("*.*"):
            damage(file)

    return apply


def overwrite(content: str):
    """Return a function that replaces the content of a file."""
    return lambda file: file.write_text(content)


DATA = [  # config, damaged file or folder, damage, its description, words that the message contains
    (DET, COCO, overwrite(""), "is empty", ("instances_train2017.json", "JSON")),
    (DET, COCO, overwrite("[1"), "is not valid JSON", ("instances_train2017.json", "JSON")),
    (DET, COCO, overwrite("[]"), "is a list", ("does not build",)),
    (DET, COCO, overwrite("{}"), "is an empty object", ("instances_train2017.json", "'categories'")),
    (DET, COCO, edit(lambda data: data.update(images=[])), "has no images", ("no sample", "annotation file is empty")),
    (DET, COCO, edit(lambda data: data.update(annotations=[])), "has no annotations", ("no sample",)),
    (
        DET,
        COCO,
        edit(lambda data: data["categories"].pop()),
        "lacks a category",
        ("no categories toothbrush (1 of the 80",),
    ),
    (
        DET,
        COCO,
        edit(lambda data: [a.pop("bbox") for a in data["annotations"]]),
        "has no boxes",
        ("does not build", "bbox"),
    ),
    (DET, COCO, Path.unlink, "does not exist", ("does not exist",)),
    (DET, "coco/train2017", each(truncate), "has truncated files", (BAD_SAMPLES, "train2017/", "--max-bad-data")),
    (DET, "coco/train2017", each(Path.unlink), "has no files", ("8 of 8 images of the train", "do not exist")),
    (DET, "coco/val2017", each(truncate), "has truncated files", ("val2017/",)),
    (CLS, "imagenet/meta/train.txt", overwrite(""), "is empty", ("no sample",)),
    (
        CLS,
        "imagenet/meta/train.txt",
        overwrite("picture"),
        "has a line without a label",
        ("imagenet", "not enough values to unpack"),
    ),
    (CLS, "imagenet/train", each(truncate), "has truncated files", (BAD_SAMPLES, ".JPEG")),
    (SEG, f"{ADE}/images/training", each(Path.unlink), "has no files", ("no sample",)),
    (SEG, f"{ADE}/images/training", each(truncate), "has truncated files", (BAD_SAMPLES,)),
    (
        SEG,
        f"{ADE}/annotations/training",
        each(Path.unlink),
        "has no files",
        ("label maps of the train", "do not exist"),
    ),
    (SEG, f"{ADE}/annotations/training", each(truncate), "has truncated files", (BAD_SAMPLES,)),
    (SEG, f"{ADE}/annotations", shutil.rmtree, "does not exist", ("annotations/training does not exist",)),
    (SALIENCY, "saliency/DUTS-TR/DUTS-TR-Mask", each(Path.unlink), "has no files", ("have no mask",)),
    (SALIENCY, "saliency/DUTS-TR/DUTS-TR-Mask", each(truncate), "has truncated files", ("not a readable image",)),
    (POSE, "coco/annotations/person_keypoints_train2017.json", overwrite("{}"), "is an empty object", ("no sample",)),
    (
        POSE,
        "coco/annotations/person_keypoints_train2017.json",
        edit(lambda data: data.update(annotations=[])),
        "has no annotations",
        ("no sample",),
    ),
    (POSE, "coco/train2017", each(truncate), "has truncated files", (BAD_SAMPLES,)),
    (
        PANOPTIC,
        "coco/annotations/panoptic_train2017",
        each(Path.unlink),
        "has no files",
        ("label maps", "do not exist"),
    ),
    (
        PANOPTIC,
        "coco/annotations/panoptic_train2017.json",
        overwrite("{"),
        "is not valid JSON",
        ("panoptic_train2017.json", "JSON"),
    ),
]


# ---- The tests ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def files(tmp_path_factory, demo_root) -> dict[str, str]:
    """Map each word in capitals to the path that replaces it in a command."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "configs").mkdir()
    for name, content in CONFIGS.items():
        (folder / "configs" / name).write_text(content)
    model = build_random_model(get_config(CLS))
    torch.save(dict(state_dict=model.state_dict()), folder / "good.pth")
    torch.save(dict(state_dict={"a.b": torch.ones(3)}), folder / "other.pth")
    torch.save(dict(state_dict=model.state_dict(), run=os.system), folder / "code.pth")
    bad = model.state_dict() | {"head.fc.bias": torch.full((1000,), float("nan"))}
    torch.save(dict(state_dict=bad), folder / "nan.pth")
    (folder / "cut.pth").write_bytes((folder / "good.pth").read_bytes()[:100000])
    (folder / "text.pth").write_text("these are no weights")
    (folder / "empty.pth").touch()
    shutil.copy(next(demo_root.glob("coco/val2017/*.jpg")), folder / "picture.jpg")
    names = ("good", "other", "code", "nan", "cut", "text", "empty")
    named = {name.upper(): str(folder / f"{name}.pth") for name in names}
    return named | dict(CONFIGS=str(folder / "configs"), PICTURE=str(folder / "picture.jpg"), DATA=str(demo_root))


# Tools whose arguments are only numbers and folders, which argparse checks.
WITHOUT_CASES = {"misc/guard_cost", "misc/kill_and_resume", "misc/test_environments"}


def test_every_tool_has_cases():
    tools = {str(file.relative_to(ROOT / "tools").with_suffix("")) for file in (ROOT / "tools").rglob("[!_]*.py")}
    assert {tool for tool, _, _ in CASES} == tools - WITHOUT_CASES


@pytest.mark.parametrize(("tool", "arguments", "words"), CASES, ids=[f"{tool} {args}" for tool, args, _ in CASES])
def test_bad_arguments(tool, arguments, words, files, run_tool, tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "run"
    run.mkdir()
    (run / "iter_7.pth").write_text("an earlier result")
    folders = files | dict(RUN=str(run))
    done = run_tool(tool, *re.sub(r"\b[A-Z]{3,}\b", lambda word: folders.get(word[0], word[0]), arguments).split())
    refused(done, *words)
    written = [file for file in tmp_path.rglob("*") if file.suffix in (".pth", ".json", ".png", ".onnx", ".pkl")]
    assert [file.read_text() for file in written] == ["an earlier result"]


@pytest.mark.parametrize(
    ("config", "place", "damage", "description", "words"), DATA, ids=[f"{case[1]} {case[3]}" for case in DATA]
)
def test_bad_data(config, place, damage, description, words, demo_root, run_tool, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(demo_root / place.split("/")[0], root / place.split("/")[0])
    damage(root / place)
    run = tmp_path / "run"
    folders = dict(DATA=str(root), RUN=str(run))
    done = run_tool(
        "train",
        *[folders.get(word, word) for word in f"{config} {DEMO}".split()],
        "--cfg-options",
        "train_dataloader.batch_size=2",
    )
    refused(done, *words)
    assert not [file for file in run.rglob("*") if file.suffix == ".pth" or file.name == "scalars.json"]
