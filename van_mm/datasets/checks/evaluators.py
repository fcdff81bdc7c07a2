"""Check that the metrics of COCO's format read what the data loaders read, and that they can use it."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import exists

from van_mm.datasets.bad_samples import iter_innermost_datasets
from van_mm.datasets.checks.annotations import get_annotations, is_kind_of, join_names, load_coco
from van_mm.datasets.checks.coco import find_id_problems, find_mask_problems
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import get_type_name, iter_dicts

# What a metric of mmdet needs from PackDetInputs if it has no ann_file.
META_KEYS = {"CocoMetric": "instances", "LVISMetric": "instances", "CocoPanopticMetric": "segments_info"}
NEGLIGIBLE_ANNOTATIONS = 1000  # so many annotations make one that never matches a warning (our choice)


def find_problems(cfg: Config, datasets: dict[str, object]) -> Iterator[Problem]:
    """Yield the problems of each pair of a metric and the data sets that it evaluates, for validation and test."""
    for split in ("val", "test"):
        if split in datasets and len(datasets[split]):
            for metric, parts in iter_metrics(cfg, split, datasets[split]):
                yield from find_metric_problems(cfg, split, metric, parts)


def iter_metrics(cfg: Config, split: str, dataset) -> Iterator[tuple[dict, list]]:
    """Yield each metric's config with the data sets, which are no wrappers, that it evaluates.

    An evaluator may be one metric, a list, or an evaluator of several data sets, which has one metric for each.
    """
    evaluator = cfg.get(f"{split}_evaluator")
    parts = list(iter_innermost_datasets(dataset))
    if not isinstance(evaluator, (dict, list, tuple)):
        return
    if isinstance(evaluator, dict) and get_type_name(evaluator).startswith("MultiDataset"):
        if len(evaluator.metrics) == len(parts):
            yield from ((metric, [part]) for metric, part in zip(evaluator.metrics, parts, strict=True))
        return
    for node in iter_dicts(evaluator):
        if get_type_name(node).endswith("Metric"):
            yield node, parts


def find_metric_problems(cfg: Config, split: str, metric: dict, parts: list) -> Iterator[Problem]:
    """Yield the problems of one metric."""
    name, file = get_type_name(metric), metric.get("ann_file")
    key = f"{split}_evaluator.ann_file"
    is_pose = all(is_kind_of(part, "BaseCocoStyleDataset") for part in parts)
    is_coco = all(is_kind_of(part, "CocoDataset") for part in parts) or is_pose
    if name == "CocoPanopticMetric":
        yield from find_panoptic_folder_problems(metric, split)
    if not file:
        if name in META_KEYS and not is_pose and not passes_meta_key(cfg, split, META_KEYS[name]):
            yield Problem(
                f"{split}_evaluator ({name}) has no ann_file, and PackDetInputs of the {split} pipeline does not pass "
                f"on '{META_KEYS[name]}', so that there is nothing to compare predictions with. Set {key} to "
                f"{getattr(parts[0], 'ann_file', 'the annotation file')}"
            )
        elif name.startswith("Coco") and is_pose:  # mmpose's metric reads the data set's file
            for part in parts:
                yield from find_ground_truth_problems(metric, load_coco(part.ann_file), part.ann_file, is_pose)
        return
    if not isinstance(file, str):
        yield Problem(f"{key} is {type(file).__name__} {join_names(file)}. Set it to one file")
        return
    if not exists(file):
        loaded = join_names(getattr(part, "ann_file", "") for part in parts)
        yield Problem(f"{key} {file} does not exist. Set it to the file of the {split} data set, {loaded}")
        return
    content = load_coco(file)
    if content is None:
        return
    for part in parts:
        if not is_same_file(file, getattr(part, "ann_file", "")):
            yield from find_difference_problems(content, file, part, name, split, is_coco, is_pose)
    yield from find_missed_image_problems(content, file, parts, split)
    if name.startswith("Coco") and not metric.get("format_only"):
        yield from find_ground_truth_problems(metric, content, file, is_pose)


def is_same_file(first: str, second: str) -> bool:
    """Return whether two paths lead to one file."""
    return bool(second) and isinstance(second, str) and Path(first).resolve() == Path(second).resolve()


def passes_meta_key(cfg: Config, split: str, key: str) -> bool:
    """Return whether a packing transform of a split's pipeline passes a key on to the metric."""
    loader = cfg.get(f"{split}_dataloader") or {}
    return any(key in (node.get("meta_keys") or ()) for node in iter_dicts(loader.get("dataset")))


def find_panoptic_folder_problems(metric: dict, split: str) -> Iterator[Problem]:
    """Yield a problem if the folder of the label maps, which panoptic quality needs, is not given or missing."""
    folder, key = metric.get("seg_prefix"), f"{split}_evaluator.seg_prefix"
    if not folder and (metric.get("ann_file") or not metric.get("outfile_prefix")):
        yield Problem(f"{key} is not set. Set it to the folder of the panoptic label maps, data_prefix.seg")
    elif folder and not exists(folder):
        yield Problem(f"{key} {folder} does not exist. Set it to the folder of the panoptic label maps")


def find_difference_problems(
    content: dict, file: str, part, name: str, split: str, is_coco: bool, is_pose: bool
) -> Iterator[Problem]:
    """Yield a problem if the file of a metric has other images or categories than a data set."""
    loaded = getattr(part, "ann_file", "")
    remedy = f"Set {split}_evaluator.ann_file to the file of the data set, {loaded}"
    images = {image.get("id"): Path(str(image.get("file_name", ""))).name for image in content["images"]}
    own = load_coco(loaded) if is_coco else None
    if own is not None:
        loaded_images = {image.get("id"): Path(str(image.get("file_name", ""))).name for image in own["images"]}
    else:
        infos = map(part.get_data_info, range(len(part)))
        loaded_images = {info.get("img_id"): Path(str(info.get("img_path", ""))).name for info in infos}
    problem = f"{split}_evaluator reads {file}, but the {split} data set reads {loaded}"
    unknown = [image for image in loaded_images if image not in images]
    other = [image for image, name in loaded_images.items() if image in images and images[image] != name]
    if unknown:
        yield Problem(
            f"{problem}: {len(unknown)} of {len(loaded_images)} image ids of the data set, for instance "
            f"{join_names(unknown, 3)}, are not in the evaluator's file. {remedy}"
        )
    elif other:
        yield Problem(
            f"{problem}: {len(other)} of {len(loaded_images)} image ids stand for other images there, for instance "
            f"{other[0]} for {images[other[0]]} and {loaded_images[other[0]]}. {remedy}"
        )
    elif is_pose and own is not None:
        ids = {category.get("id") for category in content.get("categories") or ()}
        own_ids = {category.get("id") for category in own.get("categories") or ()}
        if not own_ids <= ids:
            yield Problem(f"{problem}: category ids are {join_names(ids)} there, and {join_names(own_ids)}. {remedy}")
    elif not is_pose:
        metainfo = getattr(part, "metainfo", {})
        classes = metainfo.get("classes") or ()
        if is_kind_of(part, "CocoPanopticDataset") and name != "CocoPanopticMetric":  # AP of things
            classes = metainfo.get("thing_classes") or classes
        names = [category["name"] for category in content.get("categories") or () if category.get("name") in classes]
        expected = [name for name in classes if name in names]
        missing = [name for name in classes if name not in names]
        if missing:
            yield Problem(
                f"{problem}: the evaluator's file has no category {join_names(missing)}, and has "
                f"{join_names(category.get('name') for category in content.get('categories') or ())}. {remedy}"
            )
        elif names != expected:
            yield Problem(
                f"{problem}: the categories are in the order {join_names(names)} there, but metainfo.classes is in the "
                f"order {join_names(expected)}, so that figures would be wrong. {remedy}, or sort its 'categories'"
            )


def find_missed_image_problems(content: dict, file: str, parts: list, split: str) -> Iterator[Problem]:
    """Yield a warning if a metric evaluates more images than a detection data set gives."""
    total = len({image.get("id") for image in content["images"]})
    given = sum(len(part) for part in parts)
    if all(is_kind_of(part, "BaseDetDataset") for part in parts) and given < total:
        yield Problem(
            f"{split}_evaluator evaluates the {total} images of {file}, but the {split} data set has only {given}: "
            "objects in the other images count as missed. Set indices=None, filter_cfg=None and test_mode=True in the "
            "data set, or give both the same file",
            is_error=False,
        )


def find_ground_truth_problems(metric: dict, content: dict | None, file: str, is_pose: bool) -> Iterator[Problem]:
    """Yield what keeps the metric of a codebase from reading the annotations of a file, or makes its figures wrong."""
    if content is None:
        return
    annotations = get_annotations(content)
    if not annotations:
        yield Problem(
            f"{file} has no annotations, so that there is nothing to compare predictions with. Choose a file with "
            "annotations, or set format_only=True and outfile_prefix in the evaluator"
        )
        return
    keys = dict(iscrowd="0, or 1 for a crowd", area="the area of the mask, or width * height of the box")
    if is_pose and metric.get("use_area") is False:
        del keys["area"]
    for key, value in keys.items():
        missing = sum(key not in annotation for annotation in annotations)
        if missing:
            yield Problem(
                f"{missing} of {len(annotations)} annotations of {file} have no '{key}', which {get_type_name(metric)} "
                f"needs. Add to each '{key}': {value}"
            )
    if is_pose:
        areas = [annotation.get("area", 1) for annotation in annotations if annotation.get("num_keypoints", 1)]
        if "area" in keys and areas and all(area <= 0 for area in areas):
            yield Problem(
                f"all {len(annotations)} annotations of {file} have an area of 0, with which every keypoint counts as "
                "wrong. Set 'area' to the area of the person, or use_area=False in the evaluator"
            )
    else:
        if any(annotation.get("id") == 0 for annotation in annotations):
            yield Problem(
                f"an annotation of {file} has the id 0, which COCO's evaluation takes for no match: one of "
                f"{len(annotations)} objects always counts as missed, and lowers AP. Number annotations from 1",
                is_error=len(annotations) < NEGLIGIBLE_ANNOTATIONS,
            )
        kinds = metric.get("metric") or ()
        if "segm" in ([kinds] if isinstance(kinds, str) else kinds):
            for problem in find_mask_problems(content, file):
                yield Problem(problem.message)
    yield from find_id_problems(content, file)
