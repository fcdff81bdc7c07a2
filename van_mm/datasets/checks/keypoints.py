"""Check that head, data set and annotation file of pose estimation have the same keypoints."""

from collections import Counter
from collections.abc import Iterator

from mmengine.config import Config

from van_mm.datasets.checks.annotations import is_kind_of, join_names, load_coco
from van_mm.datasets.checks.problem import Problem
from van_mm.utils.config_walk import get_type_name, iter_dicts

# The heads with one output per keypoint, and the setting that counts them.
HEAD_KEYS = {
    **dict.fromkeys(("HeatmapHead", "CPMHead", "ViPNASHead", "SimCCHead", "RTMCCHead", "RTMWHead"), "out_channels"),
    **dict.fromkeys(("RegressionHead", "RLEHead", "DSNTHead", "IntegralRegressionHead"), "num_joints"),
    **dict.fromkeys(
        ("AssociativeEmbeddingHead", "DEKRHead", "CIDHead", "RTMOHead", "YOLOXPoseHead", "EDPoseHead"), "num_keypoints"
    ),
}


def find_problems(cfg: Config, dataset, split: str) -> Iterator[Problem]:
    """Yield a problem if the numbers or the order of keypoints differ."""
    if not is_kind_of(dataset, "BaseCocoStyleDataset"):
        return
    count = dataset.metainfo.get("num_keypoints")
    if not count:
        return
    yield from find_metainfo_problems(dataset.metainfo, count, split)
    yield from find_file_problems(dataset, count)
    converted = find_converted_count(cfg, split)
    if split == "train" or not converts_predictions(cfg, split):
        yield from find_head_problems(cfg, split, count if converted is None else converted)


def find_metainfo_problems(metainfo: dict, count: int, split: str) -> Iterator[Problem]:
    """Yield a problem if ``metainfo`` has not one weight and sigma a keypoint, or its left and right do not match."""
    for key, name in dict(sigmas="sigmas", dataset_keypoint_weights="joint_weights").items():
        found = metainfo.get(key)
        if found is not None and len(found) != count:
            yield Problem(
                f"metainfo of the {split} data set has {len(found)} {name}, but {count} keypoints. Write one for each "
                "keypoint"
            )
    flipped, names = metainfo.get("flip_indices") or [], metainfo.get("keypoint_id2name") or {}
    wrong = [names.get(i, i) for i, other in enumerate(flipped) if flipped[other] != i]
    if wrong:
        yield Problem(
            f"'swap' of the keypoint {join_names(wrong)} in metainfo of the {split} data set names a keypoint that "
            "does not name it in return, so that flipped images get wrong keypoints. Set 'swap' of left and right to "
            "each other"
        )


def converts_predictions(cfg: Config, split: str) -> bool:
    """Return whether the model or the metric selects some of the predicted keypoints for evaluation."""
    test_cfg = cfg.model.get("test_cfg") or {}
    metrics = iter_dicts(cfg.get(f"{split}_evaluator"))
    return bool(test_cfg.get("output_keypoint_indices")) or any(metric.get("pred_converter") for metric in metrics)


def find_converted_count(cfg: Config, split: str) -> int | None:
    """Return the number of keypoints that a ``KeypointConverter`` of a split's pipelines makes, or None."""
    for node in iter_dicts((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
        if get_type_name(node) == "KeypointConverter":
            return node.get("num_keypoints")
        if get_type_name(node) == "CombinedDataset":  # its own metainfo says what the model predicts
            return get_combined_count(node)
    return None


def get_combined_count(node: dict) -> int | None:
    """Return the number of keypoints in the metainfo of a ``CombinedDataset``."""
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    return parse_pose_metainfo(dict(node["metainfo"]))["num_keypoints"] if node.get("metainfo") else None


def find_head_problems(cfg: Config, split: str, count: int) -> Iterator[Problem]:
    """Yield a problem if the head has another number of outputs than there are keypoints."""
    head = cfg.model.get("head")
    key = HEAD_KEYS.get(get_type_name(head)) if isinstance(head, dict) else None
    if key is None or not isinstance(head.get(key), int):
        return
    decoders = [node for node in iter_dicts(head.get("decoder")) if "type" in node]
    is_combined = any(node.get("heatmap_type") == "combined" for node in decoders)  # UDP's heatmaps and offsets
    expected = 3 * count if is_combined else count
    if head[key] != expected:
        yield Problem(
            f"model.head.{key} is {head[key]}, but the {split} data set has {count} keypoints in metainfo. Set "
            f"model.head.{key} to {expected}, or metainfo of the data sets to a file with {head[key]} keypoints"
        )


def find_file_problems(dataset, count: int) -> Iterator[Problem]:
    """Yield a problem if the annotation file has another number of keypoints, or the same ones in another order."""
    content = load_coco(dataset.ann_file)
    if content is None or not reads_plain_keypoints(dataset):
        return
    annotations = [item for item in content.get("annotations") or () if item.get("keypoints")]
    lengths = Counter(len(item["keypoints"]) / 3 for item in annotations)
    wrong = {length: number for length, number in lengths.items() if length != count}
    remedy = f"Set metainfo of the data set to a file with these keypoints, or write {3 * count} numbers (x, y, v)"
    if wrong:
        found = join_names(f"{length:g}" for length in sorted(wrong))
        yield Problem(
            f"{sum(wrong.values())} of {len(annotations)} annotations of {dataset.ann_file} have {found} keypoints, "
            f"but metainfo of the data set has {count}. {remedy}"
        )
        return
    points = [item for item in annotations if len(item.get("keypoints")) == 3 * count]
    visible = [max(item["keypoints"]) for item in points if any(item["keypoints"][2::3])]
    if visible and max(visible) <= 2:  # the third number of each keypoint is at most 2
        yield Problem(
            f"all keypoints of {dataset.ann_file} are at most 2, so they seem to be relative. Write them in pixels"
        )
    expected = [name.lower().replace(" ", "_") for name in dataset.metainfo["keypoint_id2name"].values()]
    for category in content.get("categories") or ():
        names = [str(name).lower().replace(" ", "_") for name in category.get("keypoints") or ()]
        if names and len(names) != count:
            yield Problem(
                f"category '{category.get('name')}' of {dataset.ann_file} names {len(names)} keypoints, but metainfo "
                f"of the data set has {count}. Check that both describe the same keypoints",
                is_error=False,
            )
        elif names != expected and sorted(names) == sorted(expected):
            yield Problem(
                f"category '{category.get('name')}' of {dataset.ann_file} has its keypoints in the order "
                f"{join_names(names)}, but metainfo of the data set is in the order {join_names(expected)}. Write the "
                "keypoints of metainfo in the order of the file"
            )


def reads_plain_keypoints(dataset) -> bool:
    """Return whether a data set takes ``keypoints`` of an annotation as they are."""
    base = next(kind for kind in type(dataset).__mro__ if kind.__name__ == "BaseCocoStyleDataset")
    return type(dataset).parse_data_info is base.parse_data_info
