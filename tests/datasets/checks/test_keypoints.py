"""Other numbers or orders of keypoints in head, data set and file are named before training starts."""

import pytest

from tests.datasets.checks.coco_data import (
    assert_found,
    find_messages,
    make_config,
    make_people,
    make_pose_dataset,
    write,
)
from van_mm.utils.errors import UserError

NAMES = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip
FIVE = dict(
    dataset_name="five",
    paper_info={},
    keypoint_info={i: dict(name=f"p{i}", id=i, color=[0, 0, 0], type="", swap="") for i in range(5)},
    skeleton_info={},
    joint_weights=[1.0] * 5,
    sigmas=[0.05] * 5,
)


def make_pose_config(file: str, head: dict | None = None, **settings):
    head = head or dict(type="HeatmapHead", out_channels=17)
    return make_config(
        "mmpose", dict(type="TopdownPoseEstimator", head=head), train=make_pose_dataset(file, **settings)
    )


@pytest.mark.parametrize(
    ("right", "wrong", "key"),
    [
        (dict(type="HeatmapHead", out_channels=17), 21, "out_channels"),
        (dict(type="mmpose.RTMCCHead", out_channels=17, decoder=dict(type="SimCCLabel")), 5, "out_channels"),
        (dict(type="HeatmapHead", out_channels=51, decoder=dict(type="UDPHeatmap", heatmap_type="combined")), 17,
         "out_channels"),
        (dict(type="RegressionHead", num_joints=17), 16, "num_joints"),
        (dict(type="DEKRHead", num_keypoints=17), 14, "num_keypoints"),
        (dict(type="HeatmapHead", out_channels=17, decoder=[dict(type="MSRAHeatmap"), dict(type="MegviiHeatmap")]), 4,
         "out_channels"),
    ],
)  # fmt: skip
def test_head(tmp_path, right, wrong, key):
    file = write(tmp_path, make_people())
    assert find_messages(make_pose_config(file, right)) == {}
    assert_found(make_pose_config(file, right | {key: wrong}), f"model.head.{key} is {wrong}", "17 keypoints")


def test_head_with_more_keypoints_than_are_evaluated(tmp_path):
    file = write(tmp_path, make_people())
    head = dict(type="HeatmapHead", out_channels=19)
    metric = dict(type="CocoMetric")
    val = make_pose_dataset(file, test_mode=True)
    convert = dict(type="KeypointConverter", num_keypoints=17, mapping=[(i, i) for i in range(17)])
    select = dict(head=head, test_cfg=dict(output_keypoint_indices=list(range(17))))
    assert_found(make_config("mmpose", dict(head=head), val=val, val_evaluator=metric), "out_channels is 19")
    assert find_messages(make_config("mmpose", select, val=val, val_evaluator=metric)) == {}
    metric["pred_converter"] = convert
    assert find_messages(make_config("mmpose", dict(head=head), val=val, val_evaluator=metric)) == {}
    assert_found(make_config("mmpose", select, train=val, val=val), "out_channels is 19", "train data set")


def test_metainfo(tmp_path):
    file = write(tmp_path, make_people(keypoints=5))
    head = dict(type="HeatmapHead", out_channels=5)
    assert find_messages(make_pose_config(file, head, metainfo=FIVE)) == {}
    assert_found(make_pose_config(file, dict(type="HeatmapHead", out_channels=17)), "6 of 6", "5 keypoints", "17")


def test_some_annotations(tmp_path):
    content = make_people()
    content["annotations"][2]["keypoints"] += [1, 1, 2]
    assert_found(make_pose_config(write(tmp_path, content)), "1 of 6", "have 18 keypoints", "has 17")


def test_incomplete_keypoint(tmp_path):
    content = make_people()
    content["annotations"][2]["keypoints"].pop()
    with pytest.raises(UserError, match="1 annotations of train.json have 'keypoints' of a length.* multiple of 3. "):
        find_messages(make_pose_config(write(tmp_path, content)))


def test_names_of_categories(tmp_path):
    content = make_people()
    content["categories"][0]["keypoints"] = NAMES
    assert find_messages(make_pose_config(write(tmp_path / "a", content))) == {}
    content["categories"][0]["keypoints"] = NAMES[::-1]
    assert_found(make_pose_config(write(tmp_path / "b", content)), "right_ankle, left_ankle", "order nose, left_eye")
    content["categories"][0]["keypoints"] = NAMES[:9]
    assert_found(make_pose_config(write(tmp_path / "c", content)), "names 9 keypoints", is_error=False)


def test_relative_keypoints_and_boxes(tmp_path):
    content = make_people()
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 64 for value in annotation["bbox"]]
    assert_found(make_pose_config(write(tmp_path / "a", content)), "boxes under one pixel", "relative")
    content = make_people()
    for annotation in content["annotations"]:
        annotation["keypoints"] = [0.5, 0.25, 2] * 17
    assert_found(make_pose_config(write(tmp_path / "b", content)), "keypoints", "relative")


def test_wrappers(tmp_path):
    dataset = make_pose_dataset(write(tmp_path, make_people(keypoints=5)))
    wrapped = dict(type="RepeatDataset", times=2, dataset=dataset)
    combined = dict(
        type="CombinedDataset", metainfo=dict(from_file="configs/_base_/datasets/coco.py"), datasets=[dataset]
    )
    for outer in (wrapped, combined):
        assert_found(make_config("mmpose", train=outer), "6 of 6", "5 keypoints")


def test_converted_keypoints(tmp_path):
    file = write(tmp_path, make_people())
    convert = dict(type="KeypointConverter", num_keypoints=5, mapping=[(i, i) for i in range(5)])
    pipeline = [dict(type="LoadImage"), convert]
    assert find_messages(make_pose_config(file, dict(type="HeatmapHead", out_channels=5), pipeline=pipeline)) == {}
    assert_found(make_pose_config(file, pipeline=pipeline), "model.head.out_channels is 17", "5 keypoints")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(sigmas=[0.1] * 2), "metainfo of the train data set has 2 sigmas, but 3 keypoints"),
        (dict(joint_weights=[1.0] * 4), "has 4 joint_weights, but 3 keypoints"),
        (dict(swap=("c", "", "")), "'swap' of the keypoint a in metainfo"),
        (dict(swap=("c", "", "a")), None),
    ],
)
def test_metainfo_of_ones_own(tmp_path, change, words):
    swap = change.pop("swap", ("", "", ""))
    points = {i: dict(name=name, id=i, color=[0] * 3, swap=swap[i]) for i, name in enumerate("abc")}
    metainfo = dict(dataset_name="x", keypoint_info=points, skeleton_info={}, joint_weights=[1.0] * 3, sigmas=[0.1] * 3)
    file = write(tmp_path, make_people(keypoints=3))
    cfg = make_config("mmpose", train=make_pose_dataset(file, metainfo=metainfo | change))
    if words:
        assert_found(cfg, words)
    else:
        assert find_messages(cfg) == {}
