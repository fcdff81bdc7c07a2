"""A metric that reads another file than the data set, or a file that it cannot use, is named before training starts."""

import pytest

from tests.datasets.checks.coco_data import (
    assert_found,
    find_messages,
    make_config,
    make_content,
    make_dataset,
    make_people,
    make_pose_dataset,
    write,
)

METRIC = dict(type="CocoMetric", metric="bbox")
PASS_INSTANCES = [dict(type="PackDetInputs", meta_keys=("img_id", "ori_shape", "instances"))]


@pytest.fixture
def files(tmp_path):
    """Write a file that the data set reads, and return it with a function that writes another one for the metric."""

    def write_other(content: dict) -> str:
        return write(tmp_path / "other", content, "other")

    return write(tmp_path / "val", make_content(prefix="v"), "val"), write_other


def make_evaluated(loaded: str, evaluator, split: str = "val", **settings):
    return make_config(
        **{f"{split}_evaluator": evaluator, split: make_dataset(loaded, test_mode=True, **settings)},
    )


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("form", ["dict", "list", "nested"])
def test_other_images(files, split, form):
    loaded, write_other = files
    metric = METRIC | dict(ann_file=write_other(make_content(prefix="t")))
    evaluator = dict(
        dict=metric, list=[dict(type="DumpResults"), metric], nested=dict(type="Evaluator", metrics=[metric])
    )
    cfg = make_evaluated(loaded, evaluator[form], split)
    assert_found(cfg, f"{split}_evaluator reads", "6 of 6 image ids stand for other images", "t1.jpg and v1.jpg")


def test_other_image_ids(files):
    loaded, write_other = files
    content = make_content(prefix="v", number=4)
    assert_found(
        make_evaluated(loaded, METRIC | dict(ann_file=write_other(content))), "2 of 6 image ids", "for instance 5, 6"
    )


def test_other_categories(files):
    loaded, write_other = files
    for names, words in (
        (("dog", "cat", "owl"), ("order dog, cat, owl there", "order cat, dog, owl")),
        (("cat", "zebra", "owl"), ("no category dog", "zebra")),
    ):
        metric = METRIC | dict(ann_file=write_other(make_content(names, prefix="v")))
        assert_found(make_evaluated(loaded, metric), *words)


def test_copy_of_the_file_is_healthy(files):
    loaded, write_other = files
    for file in (write_other(make_content(prefix="v")), f"{loaded[:-8]}../val/val.json"):
        assert find_messages(make_evaluated(loaded, METRIC | dict(ann_file=file))) == {}


def test_more_images_than_the_data_set(files):
    loaded, _ = files
    cfg = make_evaluated(loaded, METRIC | dict(ann_file=loaded), indices=2)
    assert_found(cfg, "the 6 images", "only 2", is_error=False)


def test_missing_file_and_no_file(files):
    loaded, _ = files
    assert_found(make_evaluated(loaded, METRIC | dict(ann_file="nowhere.json")), "nowhere.json does not exist")
    for evaluator in (METRIC, [METRIC]):
        assert_found(
            make_evaluated(loaded, evaluator), "val_evaluator (CocoMetric) has no ann_file", "instances", loaded
        )
    cfg = make_evaluated(loaded, METRIC, pipeline=PASS_INSTANCES)
    assert find_messages(cfg) == {}


def test_no_annotations_to_compare_with(files):
    loaded, write_other = files
    content = make_content(prefix="v")
    del content["annotations"]
    file = write_other(content)
    assert_found(make_evaluated(loaded, METRIC | dict(ann_file=file)), "other.json has no annotations")
    metric = METRIC | dict(ann_file=file, format_only=True, outfile_prefix="x")
    assert find_messages(make_evaluated(loaded, metric)) == {}


def test_evaluator_of_several_data_sets(files):
    loaded, write_other = files
    other = write_other(make_content(prefix="o"))
    both = dict(type="ConcatDataset", datasets=[make_dataset(file, test_mode=True) for file in (loaded, other)])
    metrics = [METRIC | dict(ann_file=file) for file in (loaded, other)]
    evaluator = dict(type="MultiDatasetsEvaluator", dataset_prefixes=["a", "b"])
    assert find_messages(make_config(val=both, val_evaluator=evaluator | dict(metrics=metrics))) == {}
    cfg = make_config(val=both, val_evaluator=evaluator | dict(metrics=metrics[::-1]))
    messages = find_messages(cfg)
    assert len(messages) == 2
    assert all("6 of 6 image ids stand for other images" in message for message in messages)
    cfg = make_config(val=both, val_evaluator=metrics[0])
    assert_found(cfg, "stand for other images", "o1.jpg")


def make_pose_config(loaded: str, **evaluator):
    return make_config(
        "mmpose", val=make_pose_dataset(loaded, test_mode=True), val_evaluator=dict(type="CocoMetric", **evaluator)
    )


def test_pose(tmp_path):
    loaded = write(tmp_path / "val", make_people(), "val")
    assert find_messages(make_pose_config(loaded)) == {}
    assert find_messages(make_pose_config(loaded, ann_file=loaded)) == {}
    other = make_people()
    for image in other["images"]:
        image["file_name"] = f"t{image['file_name']}"
    other = write(tmp_path / "other", other, "other")
    assert_found(make_pose_config(loaded, ann_file=other), "6 of 6 image ids stand for other images")
    ids = make_people()
    ids["categories"][0]["id"] = 5
    for annotation in ids["annotations"]:
        annotation["category_id"] = 5
    assert_found(make_pose_config(loaded, ann_file=write(tmp_path / "ids", ids)), "category ids are 5 there, and 1")


@pytest.mark.parametrize("key", ["iscrowd", "area"])
@pytest.mark.parametrize("with_file", [False, True])
def test_missing_keys_of_pose(tmp_path, key, with_file):
    content = make_people()
    for annotation in content["annotations"]:
        del annotation[key]
    loaded = write(tmp_path, content, "val")
    file = dict(ann_file=loaded) if with_file else {}
    assert_found(make_pose_config(loaded, **file), "6 of 6 annotations", f"have no '{key}'")
    if key == "area":
        assert find_messages(make_pose_config(loaded, use_area=False, **file)) == {}


def test_area_0_of_pose(tmp_path):
    content = make_people()
    for annotation in content["annotations"]:
        annotation["area"] = 0
    assert_found(make_pose_config(write(tmp_path, content, "val")), "area of 0", "use_area=False")
