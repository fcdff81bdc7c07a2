"""Each line of docs/data_problems.md is what the checks say about a small generated data set.

``python -m pytest -n 0 tests/datasets/checks/test_documented_problems.py --list-messages docs/data_problems.md`` writes
the page anew.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from tests.conftest import ROOT
from tests.datasets.checks import coco_data as coco
from tests.datasets.checks import test_classification as cls
from tests.datasets.checks import test_det_maps as det_maps
from tests.datasets.checks import test_images as images
from tests.datasets.checks import test_keypoints as pose
from tests.datasets.checks import test_panoptic as panoptic
from tests.datasets.checks import test_segmentation as seg
from tests.datasets.checks import test_settings
from van_mm import get_config
from van_mm.datasets.checks import pipelines, settings
from van_mm.datasets.checks.files import check_data_files
from van_mm.utils.errors import UserError

PAGE = ROOT / "docs/data_problems.md"
TEXT = """# When something is wrong with your data

The start of every training and `python tools/misc/check_dataset.py CONFIG` look for the mistakes below, in training,
validation and test data and inside wrappers such as `RepeatDataset`. An error ends the run before it starts, and a
warning is printed.

The start of a run takes seconds: it reads annotation files, the headers of at most 1000 images of a data set, at most
32 label maps, and one sample, with which it tries the pipeline. `check_dataset.py` also decodes every image and label
map.

{links}

{sections}

## What needs nothing from you

- Images that EXIF turns are compared in the size that training sees.
- Models and weights of 1, 4 or more input channels work in `tools/infer.py`, `export_onnx.py` and `vis_cam.py`.
- Configs may have classes instead of names, and `custom_imports` of a module beside them or in the working folder.
- Stages that no output needs, as with `out_indices=(0, 1, 2)`, get no gradient, so that several GPUs need no flag.
- `--resume` follows the config's schedule, takes the checkpoint with the highest iteration inside, and starts at the
  epoch's first batch if the number of batches has changed. It logs each difference ([long runs](long_runs.md)).
- `load_from` loads what fits of a related model and lists the rest. The first convolution adapts to the input channels.
- Class names at inference come from the checkpoint. A line says so if they differ from the config's, or if no installed
  font can draw them.
- Data sets that mmpretrain reads from its own files (CIFAR-10, VOC) or downloads need no folders of images.
- Unreadable training images are left out up to `--max-bad-data`. In validation the first one ends the run.
- The validation runs on one batch before the training, so that its errors come first.
- FLOPs are the same by upstream's `get_flops.py`, PyTorch's counter and `tools/analysis/paper_tables.py`.

This page is generated:
`python -m pytest -n 0 tests/datasets/checks/test_documented_problems.py --list-messages docs/data_problems.md`.
"""
LAYOUT = r"This config expects, below .*\n(  .*\n)*"  # lines of folders and files
CASES = []  # task, what a user has, words of the message, and a function that makes a config or messages in a folder


def add(task: str, symptom: str, words: str, make) -> None:
    """Add a line to the page.

    Args:
        task (str): Its section.
        symptom (str): What a user has.
        words (str): A part of the message.
        make (Callable): Gets an empty folder, and returns a config with data, or the message.
    """
    CASES.append((task, symptom, words, make))


def make_det(change=lambda content: None, split="train", steps=coco.BOXES, evaluates=None, model=None, **dataset):
    """Return a function that writes a changed COCO file, and makes a config that reads it."""

    def make(root: Path):
        content = coco.make_content()
        file = coco.write(root, content)
        change(content)
        Path(file).write_text(json.dumps(content))
        evaluators = {}
        if evaluates:
            ann_file = dict(ann_file=file) if evaluates == "the same file" else {}
            evaluators[f"{split}_evaluator"] = dict(type="CocoMetric", metric="bbox") | ann_file
        dataset_cfg = coco.make_dataset(file, split != "train", steps, **dataset)
        return coco.make_config(model=model, **{split: dataset_cfg}, **evaluators)

    return make


def each(section: str, number=None, **values):
    """Return a function that sets values in the first entries of a section of a COCO file. ``...`` removes them."""

    def change(content: dict) -> None:
        for item in content[section][:number]:
            for key, value in values.items():
                item.update({key: value}) if value is not ... else item.pop(key)

    return change


def make_seg(*labels, split="train", mode=None, suffix=".png", binary=False, cfg=None, dtype=np.uint8, **keys):
    """Return a function that writes two label maps with these labels, and makes a config that reads them."""

    def make(root: Path):
        picture = Image.fromarray(seg.make_labels(*labels, dtype=dtype))
        if mode == "P":
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        elif mode:
            picture = picture.convert(mode)
        seg.write_maps(root, [picture] * 2, suffix, split)
        config = (seg.make_binary_config if binary else seg.make_seg_config)(root, split=split, suffix=suffix, **keys)
        config.merge_from_dict(cfg or {})
        return config

    return make


def make_pose(change=lambda content: None, split="train", head=17, metric=None, **dataset):
    """Return a function that writes a changed file of persons, and makes a config that reads it."""

    def make(root: Path):
        content = coco.make_people()
        change(content)
        file = coco.write(root, content)
        evaluator = {f"{split}_evaluator": dict(type="CocoMetric", ann_file=file)} if metric else {}
        model = dict(type="TopdownPoseEstimator", head=dict(type="HeatmapHead", out_channels=head))
        data = coco.make_pose_dataset(file, split != "train", **dataset)
        return coco.make_config("mmpose", model, **{split: data}, **evaluator)

    return make


def make_cls(train="abc", val="abc", **keys):
    """Return a function that writes class folders, and makes a config that reads them."""

    def make(root: Path):
        for split, names in (("train", train), ("val", val)):
            cls.write_folders(root / split, *names)
        data = {split: cls.make_dataset(root / split) for split in ("train", "val")}
        return cls.make_cls_config(**dict(num_classes=len(train)) | keys, **data)

    return make


def list_settings(config: str, number: int, **changes):
    """Return a function that gives the messages about the settings of a config of the suite."""

    def make(root: Path):
        cfg = get_config(config)
        cfg.merge_from_dict(changes)
        return next(settings.find_problems(cfg, dict(train=range(number)))).message

    return make


def list_missing_files(**dataset):
    """Return a function that gives the message about files of a data set that do not exist."""

    def make(root: Path):
        cfg = coco.make_config(train=dict(type="CocoDataset", data_root=str(root)) | dataset)
        check_data_files(cfg, ("train",))

    return make


def list_pipeline(step: dict):
    """Return a function that gives the message about a transform that always fails."""

    def make(root: Path):
        dataset = test_settings.make_dataset(root, [step])
        return next(pipelines.find_problems(None, dataset, "train")).message

    return make


def list_tta(root: Path) -> str:
    cfg = coco.make_config("mmdet", tta_pipeline=[dict(type="LoadImageFromFil")])
    with DefaultScope.overwrite_default_scope("mmdet"):
        return next(pipelines.find_tta_problems(cfg, {})).message


ANY = "Any task"
add(ANY, "A folder or file is missing", "is not complete", list_missing_files(ann_file="train.json"))
add(ANY, "A path of Windows", "backslashes", list_missing_files(ann_file="labels\\train.json"))
add(ANY, "Some images are missing", "do not exist", make_det(each("images", 2, file_name="gone.jpg"), "val"))
add(ANY, "`ann_file` is a list", "is a list", make_det(ann_file=["a.json", "b.json"]))
add(ANY, "`classes='person'`", "is the string", make_det(metainfo=dict(classes="person")))
add(ANY, "A wrong option of a transform", "fails on each", list_pipeline(dict(type="Resize", scale=8, backend="x")))
add(ANY, "A wrong transform in `tta_pipeline`", "tta_pipeline does not", list_tta)
add(ANY, "A schedule that ends before the training", "learns nothing after", list_settings(
    "seg/upernet_van_b0", 8, param_scheduler=[dict(type="PolyLR", eta_min=0, end=80, by_epoch=False)],
    train_cfg=dict(max_iters=160)))  # fmt: skip
add(ANY, "The last batch has one image", "the last batch", list_settings(
    "seg/upernet_van_b0", 7, train_dataloader=dict(batch_size=2, sampler=dict(type="DefaultSampler", _delete_=True)))
)  # fmt: skip
add(ANY, "EXIF turns images, annotated as stored", "EXIF", lambda root: coco.make_config(
    train=coco.make_dataset(images.write_turned(root, annotated_as_read=False))))  # fmt: skip
add(ANY, "EXIF turns square images", "does not show", lambda root: coco.make_config(train=coco.make_dataset(
    coco.write(root, dict(coco.make_content(), images=[
        dict(image, width=64, height=64) for image in coco.make_content()["images"]]), orientation=6))))  # fmt: skip
add(ANY, "Wrong sizes in the annotations", "another size than", make_det(each("images", width=65)))

CLS = "Classification"
add(CLS, "train/ and val/ have different folders", "different class folders", make_cls("abc", "ac"))
add(CLS, "A head for other classes", "num_classes is 1000, but the train", make_cls(num_classes=1000))
add(CLS, "Labels beyond the classes", "has the label 3", lambda root: cls.make_cls_config(
    3, train=cls.write_list(root / "train", 1, 2, 3)))  # fmt: skip
add(CLS, "Fewer than five classes, and top-5", "top-5", make_cls(val_evaluator=dict(type="Accuracy", topk=(1, 5))))
add(CLS, "Mixup or CutMix for 1000 classes", "data_preprocessor.num_classes", make_cls(
    data_preprocessor=dict(num_classes=1000), model=dict(train_cfg=dict(augments=[dict(type="Mixup", alpha=1.0)])))
)  # fmt: skip
add(CLS, "Label smoothing for 1000 classes", "loss.num_classes", make_cls(
    head=dict(loss=dict(type="LabelSmoothLoss", num_classes=1000))))  # fmt: skip

DET = "Detection and instance segmentation"
add(DET, "`categories` in another order than `classes`", "are in the order", make_det(
    metainfo=dict(classes=("dog", "cat", "owl"))))  # fmt: skip
add(DET, "`classes` that the file does not have", "has no categories", make_det(
    metainfo=dict(classes=("cat", "dog", "fox"))))  # fmt: skip
add(DET, "A head for other classes", "bbox_head.num_classes is", make_det(
    model=dict(type="RetinaNet", bbox_head=dict(type="RetinaHead", num_classes=80)), split="val"))  # fmt: skip
add(DET, "Boxes of values from 0 to 1", "relative", make_det(each("annotations", bbox=[0.1, 0.2, 0.5, 0.5])))
add(DET, "Boxes as corners", "corners", make_det(each("annotations", bbox=[30, 20, 60, 40])))
add(DET, "Boxes beyond their image", "extend beyond", make_det(each("annotations", 6, bbox=[50, 2, 30, 20])))
add(DET, "Annotations with area 0", "are not used", make_det(each("annotations", area=0), filter_cfg=None))
add(DET, "Boxes that are strings, null or NaN", "have a wrong 'bbox'", make_det(each("annotations", 1, bbox=None)))
add(DET, "Unknown categories or images", "does not list", make_det(each("annotations", 2, category_id=9)))
add(DET, "Ids more than once", "ids more than once", make_det(each("annotations", 2, id=5)))
add(DET, "No `area`", "have no 'area'", make_det(each("annotations", area=...)))
add(DET, "No `iscrowd`", "have no 'iscrowd'", make_det(
    each("annotations", iscrowd=...), "val", evaluates="the same file"))  # fmt: skip
add(DET, "Annotation ids from 0", "the id 0", make_det(
    each("annotations", 1, id=0), "val", evaluates="the same file"))  # fmt: skip
add(DET, "No masks, in a config with masks", "have no mask", make_det(
    each("annotations", 1, segmentation=[]), steps=coco.MASKS))  # fmt: skip
add(DET, "Polygons of two points", "less than three points", make_det(
    each("annotations", 1, segmentation=[[1, 2, 3, 4]]), steps=coco.MASKS))  # fmt: skip
add(DET, "Encoded masks of another size", "run-length", make_det(
    each("annotations", segmentation=dict(size=[64, 48], counts=[3072])), steps=coco.MASKS))  # fmt: skip
add(DET, "The evaluator has no file", "has no ann_file", make_det(split="val", evaluates="no file"))
add(DET, "The evaluator reads another file", "stand for other images", lambda root: coco.make_config(
    val=coco.make_dataset(coco.write(root / "val", coco.make_content(prefix="v")), True),
    val_evaluator=dict(type="CocoMetric", ann_file=coco.write(root / "train", coco.make_content()))))  # fmt: skip
add(DET, "The evaluator's file has more images", "count as missed", make_det(
    split="val", evaluates="the same file", indices=4))  # fmt: skip
add(DET, "No annotations", "has no annotations", make_det(lambda content: content.update(annotations=[]), "val",
    evaluates="the same file"))  # fmt: skip

PAN = "Panoptic segmentation, MaskFormer and semantic heads"


def make_panoptic(things, stuff, weights=None, ids=None):
    def make(root: Path):
        panoptic.write_panoptic(root)
        cfg = panoptic.make_panoptic_config(root, panoptic.make_model(things, stuff, weights=weights))
        if ids:
            cfg.train_dataloader.dataset.pipeline.append(dict(type="LoadPanopticAnnotations"))
            det_maps.write_segment_maps(root, ids)
        return cfg

    return make


add(PAN, "Counts of other classes", "panoptic_head.num_things_classes is", make_panoptic(80, 2))
add(PAN, "`class_weight` of other classes", "class_weight has", make_panoptic(3, 2, weights=134))
add(PAN, "Label maps with other ids", "do not occur in", make_panoptic(3, 2, ids={1: 7}))
add(PAN, "Labels beyond a semantic head", "semantic_head.num_classes is", lambda root: det_maps.make_semantic_config(
    root, det_maps.make_map(0, 3, 200)))  # fmt: skip

SEG = "Semantic segmentation"
add(SEG, "Labels of 16 bits", "cuts to 8 bits", make_seg(0, 256, 300, dtype=np.uint16))
add(SEG, "Masks of 0 and 255", "is it your foreground", make_seg(0, 0, 0, 255, binary=True))
add(SEG, "The same with `reduce_zero_label`", "because of reduce_zero_label", make_seg(
    0, 0, 0, 1, binary=True, reduce_zero_label=True))  # fmt: skip
add(SEG, "Labels beyond the classes", "have the labels", make_seg(0, 1, 2, 7))
add(SEG, "Label maps with colors", "3 channels", make_seg(0, 1, 2, mode="RGB"))
add(SEG, "Palette images read by OpenCV", "palette image", make_seg(
    0, 1, 2, mode="P", steps=[seg.LOAD[0], seg.LOAD[1] | dict(imdecode_backend="cv2")]))  # fmt: skip
add(SEG, "Label maps as JPEG", "JPEG", make_seg(1, suffix=".jpg"))
add(SEG, "`num_classes=1`", "num_classes is 1:", make_seg(0, 1, binary=True, cfg=dict(
    model=dict(decode_head=dict(num_classes=1)))))  # fmt: skip
add(SEG, "One channel with a softmax", "out_channels is 1", make_seg(0, 1, binary=True, cfg=dict(
    model=dict(decode_head=dict(out_channels=1)))))  # fmt: skip
add(SEG, "Heads that ignore different labels", "different ignore_index", make_seg(0, 1, 2, cfg=dict(
    model=dict(auxiliary_head=dict(type="FCNHead", num_classes=3, ignore_index=11)))))  # fmt: skip
add(SEG, "A metric that ignores another label", "val_evaluator ignores", make_seg(
    0, 1, 2, 11, split="val", head=seg.HEAD | dict(ignore_index=11), evaluator=dict(type="IoUMetric")))  # fmt: skip
add(SEG, "Padding that is not ignored", "data_preprocessor.seg_pad_val", make_seg(
    0, 1, 2, head=seg.HEAD | dict(ignore_index=11), cfg=dict(data_preprocessor=dict(size=(64, 64)))))  # fmt: skip
add(SEG, "`reduce_zero_label` in the pipeline only", "LoadAnnotations of the train pipeline has", make_seg(
    0, 1, 2, steps=[seg.LOAD[0], seg.LOAD[1] | dict(reduce_zero_label=True)]))  # fmt: skip
add(SEG, "The same in `tta_pipeline`", "LoadAnnotations of tta_pipeline", make_seg(0, 1, 2, split="test", cfg=dict(
    tta_pipeline=[dict(type="LoadAnnotations", reduce_zero_label=True)])))  # fmt: skip

POSE = "Pose estimation"
add(POSE, "A head for other keypoints", "model.head.out_channels is", make_pose(head=21))
add(POSE, "A file with other keypoints", "but metainfo of the data set has 17", make_pose(
    each("annotations", keypoints=[1, 2, 2] * 5)))  # fmt: skip
add(POSE, "Relative keypoints", "all keypoints of", make_pose(each("annotations", keypoints=[0.1, 0.2, 2] * 17)))
add(POSE, "Own metainfo with other `sigmas`", "sigmas", make_pose(
    each("annotations", keypoints=[9, 9, 2] * 5), head=5, metainfo=pose.FIVE | dict(sigmas=[0.1] * 17)))  # fmt: skip
add(POSE, "One-sided `swap`", "'swap' of the keypoint", make_pose(
    each("annotations", keypoints=[9, 9, 2] * 5), head=5, metainfo=pose.FIVE | dict(keypoint_info={
        i: dict(point, swap="p1" if i == 0 else "") for i, point in pose.FIVE["keypoint_info"].items()})))  # fmt: skip
add(POSE, "Persons with area 0", "area of 0", make_pose(each("annotations", area=0), "val", metric=True))


# ---- The page -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def page(request) -> dict[str, list[str]]:
    """Collect the lines of the page by task, and write them to the file given by ``--list-messages``."""
    lines: dict[str, list[str]] = {}
    yield lines
    if path := request.config.getoption("--list-messages"):
        Path(path).write_text(format_page(lines))


def format_page(lines: dict[str, list[str]]) -> str:
    head = "| what you have | message | what to do |\n| --- | --- | --- |\n"
    sections = "\n\n".join(f"## {task}\n\n{head}" + "\n".join(rows) for task, rows in lines.items())
    anchors = [(task, "".join(c for c in task.lower() if c.isalnum() or c in " -").replace(" ", "-")) for task in lines]
    return TEXT.format(links="\n".join(f"- [{task}](#{anchor})" for task, anchor in anchors), sections=sections)


def find_message(make, root: Path, words: str) -> str:
    """Return the message that contains these words, marked if it is a warning, without the folder of the test."""
    try:
        found = make(root)
        messages = {found: True} if isinstance(found, str) else coco.find_messages(found)
    except UserError as error:
        messages = {str(error): True}
    messages = {re.sub(LAYOUT, "The message shows the expected layout. ", text): messages[text] for text in messages}
    (message,) = [message for message in messages if words in message]
    return ("" if messages[message] else "Warning: ") + message.replace(f"{root}/", "").replace(str(root), "data")


@pytest.mark.parametrize(("task", "symptom", "words", "make"), CASES, ids=[f"{c[0][:3]}-{c[1]}" for c in CASES])
def test_message(task, symptom, words, make, tmp_path, page, request):
    problem, _, remedy = find_message(make, tmp_path, words).partition(". ")
    assert remedy
    cells = [" ".join(cell.split()).replace("|", "\\|") for cell in (symptom, problem, remedy.rstrip("."))]
    line = f"| {' | '.join(cells)} |"
    page.setdefault(task, []).append(line)
    if not request.config.getoption("--list-messages"):
        assert line in PAGE.read_text().splitlines(), "out of date: see the first lines of this file"


def test_page_lists_nothing_else(request):
    if request.config.getoption("--list-messages"):
        pytest.skip("the page is written afterwards")
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    tasks = len({task for task, *_ in CASES})
    assert len(rows) == len(CASES) + 2 * tasks
    assert PAGE.read_text().startswith(TEXT.partition("{links}")[0])
    assert PAGE.read_text().endswith(TEXT.partition("{sections}")[2])
