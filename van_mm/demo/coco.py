"""Generate the demo version of COCO: instances, panoptic segmentation, keypoints and person detections."""

import json
from pathlib import Path

import cv2
import numpy as np

from van_mm.demo.drawing import KEYPOINTS, draw_backdrop, draw_figure, draw_scene, make_noise, to_uint8
from van_mm.demo.writing import make_rng, track_progress, write_image

# The object classes of the demo: name -> (shape, hue).
COCO_THINGS = {
    "sports ball": ("disc", "red"),
    "frisbee": ("disc", "blue"),
    "stop sign": ("square", "cyan"),
    "book": ("square", "yellow"),
    "kite": ("triangle", "green"),
    "teddy bear": ("star", "purple"),
}
COCO_STUFF = {"sky": "sky-other-merged", "grass": "grass-merged", "sea": "sea", "sand": "sand"}


def load_coco_categories() -> list[dict]:
    """Return the 133 categories of COCO panoptic, each with ``id``, ``name`` and ``isthing``."""
    return json.loads((Path(__file__).parent / "coco_categories.json").read_text())


def write_coco(root: Path, train: int = 500, val: int = 40) -> None:
    """Write images, annotations and person detections in COCO's layout.

    Objects and people are drawn on separate images. The ids of the images start at 1 for objects and at 500001 for
    people.

    Args:
        root (Path): Root of the data set.
        train (int): Number of training images of each kind. Defaults to 500.
        val (int): Number of validation images of each kind. Defaults to 40.
    """
    (root / "annotations").mkdir(parents=True)
    (root / "person_detection_results").mkdir()
    for split, (name, number) in enumerate((("train2017", train), ("val2017", val))):
        write_coco_scenes(root, name, split, number)
        write_coco_people(root, name, split, number)


def make_image_entry(number: int, height: int, width: int) -> dict:
    """Return an image's entry in a COCO annotation file."""
    return dict(id=number, file_name=f"{number:012d}.jpg", height=height, width=width)


def mask_to_box(mask: np.ndarray) -> list[int]:
    """Return the bounding box (x, y, w, h) of a mask."""
    return [int(v) for v in cv2.boundingRect(mask.astype(np.uint8))]


def mask_to_polygons(mask: np.ndarray) -> list[list[int]]:
    """Return the outer contours of a mask as polygons [x1, y1, x2, y2, ...]."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour.ravel().tolist() for contour in contours if len(contour) >= 3]


def write_annotations(path: Path, images: list[dict], annotations: list[dict], categories: list[dict]) -> None:
    """Write an annotation file in COCO's format."""
    content = dict(info={}, licenses=[], images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(content))


def write_coco_scenes(root: Path, name: str, split: int, number: int, height: int = 288, width: int = 384) -> None:
    """Write images of objects with their instance and panoptic annotations."""
    categories = load_coco_categories()
    ids = {category["name"]: category["id"] for category in categories}
    images, instances, panoptic = [], [], []
    for i in track_progress(range(1, number + 1), f"COCO {name}"):
        image, things, grounds = draw_scene(make_rng(3, split, i), height, width, COCO_THINGS, least=3, most=6)
        entry = make_image_entry(i, height, width)
        write_image(root / name / entry["file_name"], image)
        images.append(entry)
        for thing in things:
            instances.append(
                dict(
                    id=len(instances) + 1,
                    image_id=i,
                    category_id=ids[thing.name],
                    iscrowd=0,
                    area=int(thing.mask.sum()),
                    bbox=mask_to_box(thing.mask),
                    segmentation=mask_to_polygons(thing.mask),
                )
            )
        segments, label = [], np.zeros((height, width), np.int64)
        stuff = [(ids[COCO_STUFF[ground]], mask) for ground, mask in grounds.items() if mask.any()]
        for k, (category, mask) in enumerate([(ids[t.name], t.mask) for t in things] + stuff, 1):
            label[mask] = segment = 1000 * k + i % 1000
            segments.append(
                dict(id=segment, category_id=category, iscrowd=0, area=int(mask.sum()), bbox=mask_to_box(mask))
            )
        file = f"{i:012d}.png"  # R + 256 G + 256^2 B is the segment id; OpenCV takes BGR
        rgb = np.stack([label // 256**2, label // 256 % 256, label % 256], -1).astype(np.uint8)
        write_image(root / "annotations" / f"panoptic_{name}" / file, rgb)
        panoptic.append(dict(image_id=i, file_name=file, segments_info=segments))
    write_annotations(
        root / "annotations" / f"instances_{name}.json", images, instances, [c for c in categories if c["isthing"]]
    )
    write_annotations(root / "annotations" / f"panoptic_{name}.json", images, panoptic, categories)


# The edges of COCO's skeleton, as 1-based indices of KEYPOINTS.
SKELETON = [
    [16, 14],
    [14, 12],
    [17, 15],
    [15, 13],
    [12, 13],
    [6, 12],
    [7, 13],
    [6, 7],
    [6, 8],
    [7, 9],
    [8, 10],
    [9, 11],
    [2, 3],
    [1, 2],
    [1, 3],
    [2, 4],
    [3, 5],
    [4, 6],
    [5, 7],
]


def write_coco_people(root: Path, name: str, split: int, number: int, height: int = 256, width: int = 320) -> None:
    """Write images of one or two stick figures with their keypoint annotations and detections."""
    images, people, boxes = [], [], []
    for i in track_progress(range(500001, 500001 + number), f"COCO people {name}"):
        rng = make_rng(4, split, i)
        image, _ = draw_backdrop(rng, height, width)
        image += 6 * make_noise(rng, height, width, 20)[..., None]
        entry = make_image_entry(i, height, width)
        centers = [(0.5, 0.5)] if rng.random() < 0.5 else [(0.27, 0.5), (0.73, 0.5)]
        for cx, cy in centers:
            size = height * rng.uniform(0.7, 0.9)
            hips = ((cx + rng.uniform(-0.05, 0.05)) * width, (cy + rng.uniform(0, 0.05)) * height)
            points, mask = draw_figure(rng, image, hips, size)
            points = np.round(points).astype(int)
            visible = ((points >= 0) & (points < (width, height))).all(1)
            flat = np.concatenate([points * visible[:, None], 2 * visible[:, None]], 1).ravel().tolist()
            box = mask_to_box(mask)
            people.append(
                dict(
                    id=500000 + len(people) + 1,
                    image_id=i,
                    category_id=1,
                    iscrowd=0,
                    area=int(mask.sum()) * 2,  # a stick figure is thin, and its own area would make OKS too strict
                    bbox=box,
                    segmentation=mask_to_polygons(mask),
                    keypoints=flat,
                    num_keypoints=int(visible.sum()),
                )
            )
            jitter = rng.normal(0, 0.02, 4) * (box[2], box[3], box[2], box[3])
            boxes.append(dict(image_id=i, category_id=1, bbox=(box + jitter).tolist(), score=0.99))
        write_image(root / name / entry["file_name"], to_uint8(image))
        images.append(entry)
    person = dict(id=1, name="person", supercategory="person", keypoints=list(KEYPOINTS), skeleton=SKELETON)
    write_annotations(root / "annotations" / f"person_keypoints_{name}.json", images, people, [person])
    detections = root / "person_detection_results" / f"COCO_{name}_detections_AP_H_56_person.json"
    detections.write_text(json.dumps(boxes))
