"""Statistics against loops in double precision, pycocotools and, where it is installed, the original xtcocotools."""

import copy
import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import pytest

NAME = "xtcocotools_lite_source"
pytestmark = pytest.mark.filterwarnings(f"error:::({NAME}|pycocotools)")  # a warning in these modules is a failure

SOURCE = Path(__file__).resolve().parents[1] / "src" / "xtcocotools"
PARTS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
TYPES = {
    "keypoints": ["keypoints"],
    "keypoints_body": ["keypoints"],
    "keypoints_crowd": ["keypoints"],
    "keypoints_wholebody": list(PARTS),
    "keypoints_foot": ["foot_kpts"],
    "keypoints_face": ["face_kpts"],
    "keypoints_lefthand": ["lefthand_kpts"],
    "keypoints_righthand": ["righthand_kpts"],
}
# The original has a compiled module, which this package lacks.
HAS_ORIGINAL = all(importlib.util.find_spec(name) for name in ("xtcocotools", "xtcocotools._mask"))
needs_original = pytest.mark.skipif(not HAS_ORIGINAL, reason="needs xtcocotools (README: Compare with xtcocotools)")
needs_mmpose = pytest.mark.skipif(importlib.util.find_spec("mmpose") is None, reason="needs mmpose")


def load_lite() -> ModuleType:
    """Load the package from its source under a name of its own, beside an installed xtcocotools."""
    folders = [str(SOURCE)]
    spec = importlib.util.spec_from_file_location(NAME, SOURCE / "__init__.py", submodule_search_locations=folders)
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    for submodule in ("coco", "cocoeval", "mask", "version"):
        importlib.import_module(f"{NAME}.{submodule}")
    return module


lite = load_lite()


def make_person(rng: np.random.Generator, size: float) -> dict[str, Any]:
    x, y = rng.uniform(0, 400, 2)
    width, height = size * rng.uniform(0.6, 1.4, 2)
    person: dict[str, Any] = {"bbox": [x, y, width, height], "area": width * height * rng.uniform(0.4, 0.8)}
    for key, count in PARTS.items():
        points = np.column_stack(
            [x + width * rng.random(count), y + height * rng.random(count), rng.integers(0, 3, count)]
        )
        points[points[:, 2] == 0] = 0
        person[key] = points.ravel().tolist()
    return person


def make_detection(rng: np.random.Generator, annotation: dict[str, Any], noise: float) -> dict[str, Any]:
    """Return a person near an annotation. Its score has one digit, so that there are ties."""
    detection = {"image_id": annotation["image_id"], "category_id": annotation["category_id"]}
    for key, count in PARTS.items():
        points = np.array(annotation[key]).reshape(-1, 3)
        points[:, :2] += rng.normal(0, noise * math.sqrt(annotation["area"]), (count, 2))
        points[:, 2] = rng.random(count)
        detection[key] = points.ravel().tolist()
    return detection | {"score": round(rng.uniform(0, 1), 1)}


def make_data(seed: int = 0, images: int = 12, part_scores: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations and results with empty images, two categories, crowds, persons that do not count, and ties."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(images):
        persons = 0 if image == 3 else 24 if image == 4 else int(rng.integers(1, 6))
        for _ in range(persons):
            person = make_person(rng, float(rng.choice([20, 60, 150])))
            person |= {"id": len(annotations), "image_id": image, "category_id": int(rng.integers(1, 3))}
            person["iscrowd"] = int(rng.random() < 0.1)
            if rng.random() < 0.1:
                person |= {key: [0.0] * 3 * count for key, count in PARTS.items()}
            person["num_keypoints"] = int(np.count_nonzero(np.array(person["keypoints"])[2::3] == 2))
            annotations.append(person)
            if image == 5:
                continue
            for _ in range(int(rng.integers(0, 3))):
                detections.append(make_detection(rng, person, float(rng.choice([0, 0.01, 0.05, 0.2]))))
            if rng.random() < 0.1:  # the same person twice
                annotations.append({**copy.deepcopy(person), "id": len(annotations)})
        if image in (0, 3, 4):
            stranger = make_person(rng, 80) | {"image_id": image, "category_id": 1}
            detections.append(make_detection(rng, stranger, 0.1))
    for detection in detections[::9]:  # no visible keypoints
        for key in PARTS:
            detection[key][2::3] = [0.0] * PARTS[key]
    if part_scores:
        for detection in detections:
            for part in ("wholebody", "foot", "face", "lefthand", "righthand"):
                detection[f"{part}_score"] = round(rng.uniform(0, 1), 1)
    dataset = {
        "images": [{"id": i, "width": 600, "height": 600, "crowdIndex": i / images} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "animal"}],
    }
    return dataset, detections


def make_small_data(offsets: list[float], **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return one person per offset in pixels, each in its own image and detected that far to the right."""
    annotations, detections = [], []
    for i, offset in enumerate(offsets):
        keypoints = [[10.0 + 5 * k, 20.0 + 3 * k, 2] for k in range(17)]
        annotation = {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "num_keypoints": 17}
        annotation |= {"bbox": [10.0, 20.0, 80.0, 50.0], "area": 4000.0, "keypoints": sum(keypoints, [])}
        annotations.append(annotation | changes)
        moved = [[x + offset, y, 1] for x, y, _ in keypoints]
        detections.append({"image_id": i, "category_id": 1, "score": 1.0, "keypoints": sum(moved, [])})
    images = [{"id": i, "width": 200, "height": 100} for i in range(len(offsets))]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, detections


def load(coco: type, dataset: dict[str, Any]) -> Any:
    """Return annotations without a file, in any of the three classes."""
    annotations = coco()
    annotations.dataset = copy.deepcopy(dataset)
    annotations.createIndex()
    return annotations


def evaluate(dataset: dict[str, Any], detections: list[dict[str, Any]], *args, summarize: bool = True, **kwargs) -> Any:
    annotations = load(lite.coco.COCO, dataset)
    evaluation = lite.cocoeval.COCOeval(annotations, annotations.loadRes(copy.deepcopy(detections)), *args, **kwargs)
    evaluation.evaluate()
    evaluation.accumulate()
    if summarize:
        evaluation.summarize()
    return evaluation


def make_sigmas(kind: str) -> np.ndarray:
    count = sum(PARTS[key] for key in TYPES[kind])
    return np.random.default_rng(count).uniform(0.02, 0.11, count)


# References: loops over keypoints, results and thresholds.


def compute_reference_oks(
    gt: dict[str, Any], dt: dict[str, Any], keys: list[str], sigmas: np.ndarray, use_area: bool
) -> float:
    true = [value for key in keys for value in gt[key]]
    found = [value for key in keys for value in dt[key]]
    x, y, width, height = gt["bbox"]
    area = gt["area"] if use_area else 0.53 * width * height
    count_visible = sum(v > 0 for v in true[2::3])
    terms = []
    for k, sigma in enumerate(sigmas):
        if count_visible and not true[3 * k + 2] > 0:
            continue
        if count_visible:
            dx, dy = found[3 * k] - true[3 * k], found[3 * k + 1] - true[3 * k + 1]
        else:
            dx = max(0, x - width - found[3 * k], found[3 * k] - (x + 2 * width))
            dy = max(0, y - height - found[3 * k + 1], found[3 * k + 1] - (y + 2 * height))
        terms.append(math.exp(-(dx * dx + dy * dy) / (2 * area * (2 * sigma) ** 2)))
    return math.fsum(terms) / len(terms)


def compute_reference_curve(
    dataset: dict[str, Any],
    detections: list[dict[str, Any]],
    kind: str,
    sigmas: np.ndarray,
    use_area: bool,
    threshold: float,
    limits: tuple[float, float],
    category: int,
    score_key: str,
) -> tuple[list[float], float] | None:
    """Return the precision at 101 recalls and the largest recall, or None without annotations that count."""
    keys = TYPES[kind]
    outcomes, total = [], 0

    def is_outside(area: float) -> bool:
        return not limits[0] <= area <= limits[1]

    def measure_extent(dt: dict[str, Any]) -> float:
        xs, ys = dt["keypoints"][0::3], dt["keypoints"][1::3]
        return (max(xs) - min(xs)) * (max(ys) - min(ys))

    for image in dataset["images"]:
        gts = [a for a in dataset["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category)]
        dts = [d for d in detections if (d["image_id"], d["category_id"]) == (image["id"], category)]
        dts = [d for d in dts if any(v > 0 for key in keys for v in d[key][2::3])]
        dts = sorted(dts, key=lambda d: -d[score_key])[:20]
        ignored = []
        for gt in gts:
            visible = (
                gt["num_keypoints"] if kind == "keypoints_crowd" else sum(v > 0 for k in keys for v in gt[k][2::3])
            )
            area = gt["area"] if use_area else 0.53 * gt["bbox"][2] * gt["bbox"][3]
            ignored.append(bool(gt["iscrowd"] or visible == 0 or is_outside(area)))
        total += ignored.count(False)
        taken: set[int] = set()
        for dt in dts:
            oks = [compute_reference_oks(gt, dt, keys, sigmas, use_area) for gt in gts]
            free = [g for g in range(len(gts)) if g not in taken or gts[g]["iscrowd"]]
            free = [g for g in free if oks[g] >= min(threshold, 1 - 1e-10)]
            if free:
                # Annotations with equal coordinates have equal similarities.
                best = max(free, key=lambda g: (not ignored[g], oks[g], g))
                taken.add(best)
                outcome = None if ignored[best] else True
            else:
                outcome = None if is_outside(measure_extent(dt)) else False
            outcomes.append((dt[score_key], outcome))
    if not total:
        return None
    points, true, false = [], 0, 0
    for _, outcome in sorted(outcomes, key=lambda pair: -pair[0]):
        true += outcome is True
        false += outcome is False
        points.append((true / total, true / max(true + false, 1)))
    levels = np.linspace(0, 1, 101)
    curve = [max((precision for recall, precision in points if recall >= level), default=0.0) for level in levels]
    return curve, points[-1][0] if points else 0.0


def compute_reference_stats(
    dataset: dict[str, Any],
    detections: list[dict[str, Any]],
    kind: str,
    sigmas: np.ndarray,
    use_area: bool = True,
    score_key: str = "score",
) -> list[float]:
    """Return AP and AR: over all thresholds, at 0.5 and at 0.75, and of medium and of large persons."""
    thresholds = np.linspace(0.5, 0.95, 10)
    everything, medium, large = (0, 1e10), (32**2, 96**2), (96**2, 1e10)
    subsets = [
        (thresholds, everything),
        ([0.5], everything),
        ([0.75], everything),
        (thresholds, medium),
        (thresholds, large),
    ]
    precisions, recalls = [], []
    for levels, limits in subsets:
        curves = [
            compute_reference_curve(
                dataset, detections, kind, sigmas, use_area, level, limits, category["id"], score_key
            )
            for level in levels
            for category in dataset["categories"]
        ]
        curves = [curve for curve in curves if curve is not None]
        precisions.append(np.mean([curve for curve, _ in curves]) if curves else -1)
        recalls.append(np.mean([recall for _, recall in curves]) if curves else -1)
    return precisions + recalls


# Known values and references.


def test_known_precision() -> None:
    dataset, detections = make_small_data([0, 0, 1000])
    dataset["annotations"] = dataset["annotations"][:2]
    for detection, score in zip(detections, (0.9, 0.7, 0.8), strict=True):
        detection["score"] = score
    evaluation = evaluate(dataset, detections)
    expected = (51 + 50 * 2 / 3) / 101
    np.testing.assert_allclose(evaluation.stats[[0, 1, 2, 3]], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(evaluation.stats[[5, 6, 7, 8]], 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(evaluation.stats[[4, 9]], -1)


@pytest.mark.parametrize(("use_area", "area"), [(True, 4000.0), (False, 80 * 50 * 0.53)])
def test_known_similarity(use_area: bool, area: float) -> None:
    sigmas = np.full(17, 0.05)
    offset = math.sqrt(-2 * math.log(0.72) * area * 0.1**2)
    evaluation = evaluate(*make_small_data([offset]), "keypoints", sigmas, use_area=use_area)
    np.testing.assert_allclose(evaluation.ious[0, 1], [[0.72]], rtol=0, atol=1e-12)
    np.testing.assert_allclose(evaluation.stats[:3], [0.5, 1, 0], rtol=0, atol=1e-12)


def test_annotations_without_area() -> None:
    dataset, detections = make_small_data([3, 6, 9])
    expected = evaluate(dataset, detections, use_area=False).stats
    for annotation in dataset["annotations"]:
        del annotation["area"]
    for use_area in (True, False):
        np.testing.assert_array_equal(evaluate(dataset, detections, use_area=use_area).stats, expected)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "keypoints_crowd"])
@pytest.mark.parametrize("use_area", [True, False])
def test_stats(kind: str, use_area: bool) -> None:
    dataset, detections = make_data()
    sigmas = make_sigmas(kind)
    evaluation = evaluate(dataset, detections, kind, sigmas, use_area)
    score_key = "score" if kind in ("keypoints", "keypoints_body") else kind.removeprefix("keypoints_") + "_score"
    assert evaluation.score_key == score_key
    expected = compute_reference_stats(dataset, detections, kind, sigmas, use_area, score_key)
    np.testing.assert_allclose(evaluation.stats, expected, rtol=0, atol=1e-12)
    assert 0.1 < evaluation.stats[0] < 0.9


def test_stats_of_part_without_own_score() -> None:
    dataset, detections = make_data(part_scores=False)
    sigmas = make_sigmas("keypoints_face")
    evaluation = evaluate(dataset, detections, "keypoints_face", sigmas)
    expected = compute_reference_stats(dataset, detections, "keypoints_face", sigmas)
    np.testing.assert_allclose(evaluation.stats, expected, rtol=0, atol=1e-12)


def test_default_sigmas() -> None:
    dataset, detections = make_data()
    sigmas = pycocotools.cocoeval.Params("keypoints").kpt_oks_sigmas
    assert (evaluate(dataset, detections).stats == evaluate(dataset, detections, "keypoints", sigmas).stats).all()
    assert (evaluate(dataset, detections).stats != evaluate(dataset, detections, "keypoints", sigmas * 2).stats).any()


@pytest.mark.parametrize("empty", [None, "easy", "medium", "hard"])
def test_crowd(empty: str | None) -> None:
    dataset, detections = make_data(images=16)
    limits = {"easy": (0, 0.2), "medium": (0.2, 0.8), "hard": (0.8, 2)}
    if empty:
        low, high = limits[empty]
        dataset["images"] = [image for image in dataset["images"] if not low <= image["crowdIndex"] < high]
        ids = {image["id"] for image in dataset["images"]}
        dataset["annotations"] = [annotation for annotation in dataset["annotations"] if annotation["image_id"] in ids]
        detections = [detection for detection in detections if detection["image_id"] in ids]
    sigmas = make_sigmas("keypoints_crowd")
    stats = evaluate(dataset, detections, "keypoints_crowd", sigmas).stats
    expected = compute_reference_stats(dataset, detections, "keypoints_crowd", sigmas)
    expected = expected[:3] + expected[5:8]
    for low, high in limits.values():
        images = [image for image in dataset["images"] if low <= image["crowdIndex"] < high]
        if images:
            ap = compute_reference_stats({**dataset, "images": images}, detections, "keypoints_crowd", sigmas)[0]
            expected.append(round(ap, 4))
        else:
            expected.append(-1)
    np.testing.assert_allclose(stats, expected, rtol=0, atol=1e-12)


def test_crowd_counts_undefined_precision() -> None:
    """A category without annotations in a group counts as -1 there, as in xtcocotools."""
    dataset, detections = make_small_data([0, 0, 0])
    for image, index in zip(dataset["images"], (0.1, 0.5, 0.9), strict=True):
        image["crowdIndex"] = index
    dataset["categories"].append({"id": 2, "name": "animal"})
    stats = evaluate(dataset, detections, "keypoints_crowd").stats
    np.testing.assert_allclose(stats, [1] * 6 + [0] * 3, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["keypoints", "bbox", "segm"])
def test_against_pycocotools(kind: str) -> None:
    """Equal where pycocotools differs in nothing: no id 0, the same visible keypoints, no results without any."""
    dataset, detections = make_data()
    for annotation in dataset["annotations"]:
        annotation["id"] += 1
        annotation["num_keypoints"] = int(np.count_nonzero(annotation["keypoints"][2::3]))
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x, y + height, x + width, y + height, x + width, y]]
    detections = [detection for detection in detections if any(detection["keypoints"][2::3])]
    if kind != "keypoints":
        rng = np.random.default_rng(0)
        boxes = {(a["image_id"], a["category_id"], a["keypoints"][0]): a["bbox"] for a in dataset["annotations"]}
        detections = [
            {"image_id": key[0], "category_id": key[1], "score": round(rng.random(), 1)}
            | {"bbox": [value * rng.uniform(0.97, 1.03) for value in box]}
            for key, box in boxes.items()
            for _ in range(2)
        ]
    ours = evaluate(dataset, detections, kind)
    annotations = load(pycocotools.coco.COCO, dataset | {"info": {}})
    theirs = pycocotools.cocoeval.COCOeval(annotations, annotations.loadRes(copy.deepcopy(detections)), kind)
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    np.testing.assert_array_equal(ours.stats, theirs.stats)
    assert 0.1 < ours.stats[0] < 0.9
    for key in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(ours.eval[key], theirs.eval[key])
    for image, other in zip(ours.evalImgs, theirs.evalImgs, strict=True):
        assert (image is None) == (other is None)
        for key in ("dtIgnore", "gtIgnore", "dtIds", "gtIds") if image else ():
            np.testing.assert_array_equal(image[key], other[key])
        for key in ("dtMatches", "gtMatches") if image else ():
            np.testing.assert_array_equal(np.maximum(image[key], 0), other[key])


def test_id_zero_is_a_match() -> None:
    evaluation = evaluate(*make_small_data([0]))
    assert (evaluation.evalImgs[0]["dtMatches"] == 0).all()
    assert evaluation.stats[0] == pytest.approx(1)


def test_equal_similarities() -> None:
    """Of two equal annotations the second is matched first, and both are matched in the end."""
    dataset, detections = make_small_data([0])
    dataset["annotations"].append({**copy.deepcopy(dataset["annotations"][0]), "id": 7})
    evaluation = evaluate(dataset, detections + copy.deepcopy(detections))
    assert (evaluation.evalImgs[0]["dtMatches"] == [7, 0]).all()
    assert evaluation.stats[0] == pytest.approx(1)


def test_crowd_annotation() -> None:
    """Any number of results may match a crowd. They do not count."""
    dataset, detections = make_small_data([0, 0])
    dataset["annotations"][1]["iscrowd"] = 1
    evaluation = evaluate(dataset, detections + copy.deepcopy(detections[1:]) * 2)
    assert (evaluation.evalImgs[1]["dtMatches"] == 1).all()
    assert evaluation.evalImgs[1]["dtIgnore"].all()
    assert evaluation.stats[0] == pytest.approx(1)


def test_annotation_without_visible_keypoints() -> None:
    """A result within its enlarged box is ignored, and one outside is a false positive."""
    dataset, detections = make_small_data([0, 20, 500])
    for annotation in dataset["annotations"][1:]:
        annotation["keypoints"] = [0] * 51
    evaluation = evaluate(dataset, detections)
    assert [evaluation.evalImgs[i]["dtIgnore"].all() for i in range(3)] == [False, True, False]
    detections[2]["score"] = 2.0
    assert evaluate(dataset, detections).stats[0] == pytest.approx(0.5)


def test_no_results_and_no_annotations() -> None:
    dataset, detections = make_small_data([0, 0])
    np.testing.assert_array_equal(evaluate(dataset, []).stats, [0, 0, 0, 0, -1] * 2)
    for detection in detections:
        detection["keypoints"][2::3] = [0] * 17
    np.testing.assert_array_equal(evaluate(dataset, detections).stats, [0, 0, 0, 0, -1] * 2)
    np.testing.assert_array_equal(evaluate({**dataset, "annotations": []}, detections).stats, [-1] * 10)
    np.testing.assert_array_equal(evaluate({**dataset, "annotations": []}, []).stats, [-1] * 10)


def test_nan_is_no_match() -> None:
    dataset, detections = make_small_data([0, math.nan])
    assert evaluate(dataset, detections).stats[5] == pytest.approx(0.5)


def test_summarize_needs_accumulate() -> None:
    with pytest.raises(RuntimeError, match="accumulate"):
        lite.cocoeval.COCOeval(load(lite.coco.COCO, make_small_data([0])[0])).summarize()


# Annotations, results and masks.


def test_coco_arguments(tmp_path: Path) -> None:
    dataset, _ = make_small_data([0, 0])
    del dataset["annotations"][0]["iscrowd"]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(dataset))
    coco = lite.coco.COCO(str(path), test_index=[2, 0])
    assert coco.anno_file == [str(path)]
    assert coco.anns[0]["iscrowd"] is False
    assert coco.anns[0]["keypoints"] == [20, 26, 2, 10, 20, 2]
    assert coco.getAnnIds(iscrowd=False) == [0, 1]
    loaded = lite.coco.COCO("other.json", ann_data=dataset)
    assert loaded.anno_file == ["other.json"]
    assert loaded.dataset is dataset
    assert len(loaded.anns[0]["keypoints"]) == 51
    assert lite.coco.COCO().anno_file == [None]


def test_coco_filters() -> None:
    dataset, _ = make_small_data([0, 0])
    dataset["annotations"][1]["area"] = 5000.0
    dataset["annotations"][1]["image_id"] = dataset["images"][1]["id"] = "ab"
    dataset["categories"].append({"id": 2, "name": "per"})
    coco = load(lite.coco.COCO, dataset)
    assert coco.getAnnIds(areaRng=[4000, 5000]) == [0]
    assert coco.getAnnIds(imgIds="ab") == coco.getAnnIds(imgIds=["ab"]) == [1]
    assert coco.getAnnIds(imgIds=0, catIds=1) == [0]
    assert coco.getImgIds("ab") == ["ab"]
    assert coco.getCatIds("person") == [1]


def test_load_results(tmp_path: Path) -> None:
    dataset, detections = make_small_data([0, 0])
    path = tmp_path / "results.json"
    path.write_text(json.dumps(detections))
    coco = lite.coco.COCO("annotations.json", ann_data=dataset)
    results = coco.loadRes(str(path))
    assert isinstance(results, lite.coco.COCO)
    assert coco.anno_file == ["annotations.json", str(path)]
    assert results.anns[1]["area"] == 80 * 48
    assert results.anns == coco.loadRes(copy.deepcopy(detections)).anns
    assert results.anns == coco.loadRes("no_file.json", copy.deepcopy(detections)).anns
    assert coco.anno_file == ["annotations.json", str(path)]
    boxes = coco.loadRes(np.array([[0, 1, 2, 3, 4, 0.5, 1], [1, 1, 2, 3, 5, 0.5, 1]]))
    assert [annotation["area"] for annotation in boxes.anns.values()] == [12, 15]
    for empty in ([], np.zeros((0, 7))):
        assert coco.loadRes(empty).dataset == {"images": dataset["images"], "annotations": []}
    with pytest.raises(AssertionError, match="do not correspond"):
        coco.loadRes([{**detections[0], "image_id": 9}])


def test_mask() -> None:
    mask = np.zeros((4, 5), dtype=np.uint8, order="F")
    mask[1:3, 2:] = 1
    encoded = lite.mask.encode(mask)
    assert lite.mask.area(encoded) == 6
    assert lite.mask.toBbox(encoded).tolist() == [2, 1, 3, 2]
    np.testing.assert_array_equal(lite.mask.decode(encoded), mask)
    polygon = lite.mask.merge(lite.mask.frPyObjects([[2, 1, 5, 1, 5, 3, 2, 3]], 4, 5))
    assert lite.mask.iou([polygon], [encoded], [0]).tolist() == [[1]]
    coco = lite.coco.COCO(ann_data={"images": [{"id": 1, "height": 4, "width": 5}]})
    np.testing.assert_array_equal(coco.annToMask({"image_id": 1, "segmentation": encoded}), mask)


@pytest.mark.skipif(HAS_ORIGINAL, reason="the original xtcocotools is installed")
def test_installed_module() -> None:
    xtcocotools = pytest.importorskip("xtcocotools")
    assert xtcocotools.__version__ == lite.__version__
    names = {"coco": ["COCO"], "cocoeval": ["COCOeval"], "mask": ["decode"], "version": ["__version__"]}
    for submodule, attributes in names.items():
        module = importlib.import_module(f"xtcocotools.{submodule}")
        assert all(hasattr(module, name) for name in attributes)


# The original.


def evaluate_file(package: str, folder: Path, kind: str, *args, **params) -> Any:
    """Evaluate the files ``gt.json`` and ``dt.json`` with a package that provides ``coco`` and ``cocoeval``."""
    coco, cocoeval = (importlib.import_module(f"{package}.{name}") for name in ("coco", "cocoeval"))
    annotations = coco.COCO(str(folder / "gt.json"))
    evaluation = cocoeval.COCOeval(annotations, annotations.loadRes(str(folder / "dt.json")), kind, *args)
    vars(evaluation.params).update(copy.deepcopy(params))
    evaluation.evaluate()
    return evaluation


def assert_same_evaluation(folder: Path, kind: str, *args, **params: Any) -> None:
    ours, theirs = (evaluate_file(package, folder, kind, *args, **params) for package in (NAME, "xtcocotools"))
    assert ours.score_key == theirs.score_key
    assert ours.ious.keys() == theirs.ious.keys()
    for key, similarities in ours.ious.items():
        np.testing.assert_array_equal(similarities, theirs.ious[key])
    for image, other in zip(ours.evalImgs, theirs.evalImgs, strict=True):
        if image is None:
            assert other is None
            continue
        assert image.keys() == other.keys()
        for key in image:
            np.testing.assert_array_equal(image[key], other[key])
            assert key not in ("dtMatches", "gtMatches", "dtIgnore") or image[key].dtype == other[key].dtype
    for evaluation in (ours, theirs):
        evaluation.accumulate()
        evaluation.summarize()
    assert ours.eval["counts"] == theirs.eval["counts"]
    for key in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(ours.eval[key], theirs.eval[key])
    np.testing.assert_array_equal(ours.stats, theirs.stats)


def write_data(folder: Path, dataset: dict[str, Any], detections: list[dict[str, Any]]) -> None:
    (folder / "gt.json").write_text(json.dumps(dataset))
    (folder / "dt.json").write_text(json.dumps(detections))


@needs_original
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("use_area", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_against_xtcocotools(tmp_path: Path, kind: str, use_area: bool, seed: int) -> None:
    write_data(tmp_path, *make_data(seed, images=25, part_scores=seed != 1))
    sigmas = make_sigmas(kind)
    assert_same_evaluation(tmp_path, kind, sigmas.astype(np.float32) if seed == 2 else sigmas, use_area)


@needs_original
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_boxes_and_masks_against_xtcocotools(tmp_path: Path, kind: str) -> None:
    dataset, detections = make_data(images=25)
    people = {(a["image_id"], a["category_id"]): a for a in dataset["annotations"]}
    rng = np.random.default_rng(0)
    for annotation in dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x, y + height, x + width, y + height, x + width, y]]
    for detection in detections:
        person = people.get((detection["image_id"], detection["category_id"]), dataset["annotations"][0])
        detection["bbox"] = [value * rng.uniform(0.97, 1.03) for value in person["bbox"]]
    write_data(tmp_path, dataset, detections)
    assert_same_evaluation(tmp_path, kind)


@needs_original
@pytest.mark.parametrize("kind", ["keypoints", "keypoints_crowd"])
@pytest.mark.parametrize(
    "params",
    [
        {"useCats": 0},
        {"imgIds": [7, 2, 2, 1], "catIds": [2]},
        {"maxDets": [20, 5]},
        {"maxDets": [10]},
        {"iouThrs": np.array([0.3, 0.5])},
        {"areaRng": [[0, 1e10], [0, 500]], "areaRngLbl": ["all", "small"]},
    ],
)
def test_parameters_against_xtcocotools(tmp_path: Path, kind: str, params: dict[str, Any]) -> None:
    write_data(tmp_path, *make_data(images=25))
    assert_same_evaluation(tmp_path, kind, **params)


@needs_original
@pytest.mark.parametrize("kind", ["keypoints", "keypoints_crowd", "keypoints_wholebody"])
@pytest.mark.parametrize("empty", ["results", "annotations", "both"])
def test_empty_against_xtcocotools(tmp_path: Path, kind: str, empty: str) -> None:
    dataset, detections = make_data()
    if empty != "results":
        dataset["annotations"] = []
    write_data(tmp_path, dataset, detections if empty == "annotations" else [])
    assert_same_evaluation(tmp_path, kind, make_sigmas(kind))


@needs_original
def test_results_against_xtcocotools(tmp_path: Path) -> None:
    dataset, detections = make_data()
    for detection, annotation in zip(detections[::2], dataset["annotations"], strict=False):
        detection["bbox"] = annotation["bbox"]
    for selected in (detections[::2], detections[1::2]):
        write_data(tmp_path, dataset, selected)
        ours, theirs = (
            importlib.import_module(f"{package}.coco").COCO(str(tmp_path / "gt.json"), [3, 1])
            for package in (NAME, "xtcocotools")
        )
        assert ours.dataset == theirs.dataset
        results = [coco.loadRes(str(tmp_path / "dt.json")).dataset for coco in (ours, theirs)]
        for key in results[1]:
            assert results[0][key] == results[1][key]


@needs_original
@needs_mmpose
@pytest.mark.parametrize("use_area", [True, False])
@pytest.mark.parametrize("kind", ["keypoints", "keypoints_crowd", "keypoints_wholebody"])
@pytest.mark.parametrize("from_file", [True, False])
def test_mmpose_metric(tmp_path: Path, monkeypatch, kind: str, use_area: bool, from_file: bool) -> None:
    """mmpose computes the same figures with both, with and without an annotation file."""
    from mmpose.evaluation.metrics import CocoMetric, CocoWholeBodyMetric, coco_metric, coco_wholebody_metric

    dataset, detections = make_data()
    dataset["categories"] = dataset["categories"][:1]
    for person in dataset["annotations"] + detections:
        person["category_id"] = 1
    write_data(tmp_path, dataset, detections)
    whole = kind == "keypoints_wholebody"
    sigmas = make_sigmas(kind)
    samples = []
    for image in dataset["images"]:
        persons = [detection for detection in detections if detection["image_id"] == image["id"]]
        if not persons:
            continue
        points = np.array([sum((person[key] for key in TYPES[kind]), []) for person in persons])
        points = points.reshape(len(persons), -1, 3).astype(np.float32)
        instances = {"keypoints": points[..., :2], "keypoint_scores": points[..., 2]}
        instances["bbox_scores"] = np.array([person["score"] for person in persons], dtype=np.float32)
        annotations = [person for person in dataset["annotations"] if person["image_id"] == image["id"]]
        sample = {"id": [image["id"]], "img_id": image["id"], "pred_instances": instances, "gt_instances": {}}
        sample |= {"ori_shape": (600, 600), "raw_ann_info": annotations, "crowd_index": image["crowdIndex"]}
        samples.append(sample)

    figures = []
    for package in (NAME, "xtcocotools"):
        coco, cocoeval = (importlib.import_module(f"{package}.{name}") for name in ("coco", "cocoeval"))
        for module in (coco_metric, coco_wholebody_metric):
            monkeypatch.setattr(module, "COCOeval", cocoeval.COCOeval)
        monkeypatch.setattr(coco_metric, "COCO", coco.COCO)
        metric = (CocoWholeBodyMetric if whole else CocoMetric)(
            ann_file=str(tmp_path / "gt.json") if from_file else None,
            use_area=use_area,
            iou_type="keypoints" if whole else kind,
            nms_mode="oks_nms" if use_area else "none",
        )
        metric.dataset_meta = {
            "dataset_name": "generated",
            "sigmas": sigmas,
            "num_keypoints": len(sigmas),
            "CLASSES": dataset["categories"],
        }
        metric.process([], copy.deepcopy(samples))
        figures.append(metric.evaluate(size=len(samples)))
    assert len(figures[0]) == (9 if kind == "keypoints_crowd" else 10)
    assert figures[0] == figures[1]
    assert 0.1 < next(iter(figures[0].values())) < 0.9
