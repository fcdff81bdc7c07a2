#!/usr/bin/env python
"""Predict on images and videos with any experiment of the suite. The config decides which codebase runs.

python tools/infer.py seg/upernet_van_b2 CHECKPOINT street.jpg holiday/ 'frames/*.png' --out-dir predictions
python tools/infer.py pose/simplebaseline_van_b2_coco_256x192 CHECKPOINT people.jpg --person-boxes detections.json
python tools/infer.py pose/simplebaseline_van_b2_coco_256x192 CHECKPOINT dance.mp4 --detector CONFIG CHECKPOINT

For each image NAME.jpg, the tool writes two files. NAME.png shows the prediction drawn on the image. NAME.json holds
the class scores, the boxes (x1, y1, x2, y2 in pixels) and masks, the area of each class, or the keypoints.

Segmentation also writes the map itself to NAME_labels.png: class indices for semantic segmentation, class + 1000 *
instance in 16 bits for panoptic segmentation, and 0 to 255 for saliency.

In Python, van_mm.load(CONFIG, CHECKPOINT)(IMAGES) does the same; see van_mm/apis/inferencer.py.

A video becomes NAME.mp4, and its NAME.json holds a list of frames. A file that cannot be read is skipped and reported,
and the exit code is then 1.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from _arguments import CONFIG_HELP, add_config_arguments, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, videos, folders, or quoted patterns")
    parser.add_argument(
        "--out-dir", default="predictions", metavar="DIR", help="folder of the results (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--fold", action="store_true", help="fold BatchNorm and LayerScale into the convolutions, which is faster"
    )
    parser.add_argument("--amp", action="store_true", help="run the backbone in float16 on a GPU, bfloat16 on the CPU")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if a GPU is available)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="drop detections with a lower score (default: %(default)s)"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="classes to list for classification (default: %(default)s)"
    )
    people = parser.add_mutually_exclusive_group()
    people.add_argument(
        "--person-boxes",
        metavar="FILE.json",
        help="for pose: person boxes in the format of COCO's detections, where the image is given by file_name, or by "
        "image_id if the file's name is that number; or COCO's ground truth",
    )
    people.add_argument(
        "--detector",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="for pose: model that detects the people (default: the whole image is one person)",
    )
    add_config_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    from van_mm.utils.codebases import import_codebase
    from van_mm.utils.errors import UserError
    from van_mm.utils.image_files import find_input_files

    if args.batch_size < 1 or args.top < 1:
        raise UserError("--batch-size and --top must be at least 1")

    # The inputs, and the paths of their results.
    files = find_input_files(args.inputs)
    targets = choose_targets(files, Path(args.out_dir))
    boxes = read_person_boxes(args.person_boxes, args.score_thr) if args.person_boxes else None

    # The model, and for pose the detector.
    options = dict(device=args.device, fold=args.fold, amp=args.amp, score_thr=args.score_thr, topk=args.top)
    cfg = load_config(args)
    import_codebase(cfg.default_scope)

    from rich.console import Console
    from rich.progress import Progress

    from van_mm import load
    from van_mm.apis.inputs import is_video

    model = load(cfg, args.checkpoint, **options)
    if model.task != "mmpose" and (boxes is not None or args.detector):
        raise UserError(
            f"--person-boxes and --detector are for pose estimation, but {args.config} is a config of {model.task}"
        )
    people = {}
    if args.detector:
        detector_config, detector_checkpoint = args.detector
        people["detector"] = load(load_config(args, detector_config, cfg_options={}), detector_checkpoint, **options)
    elif boxes is not None:
        people["boxes"] = lambda path, image: boxes.get(Path(path).stem.lstrip("0") or "0", [])

    # A result for each image, and for each frame of a video.
    skipped: dict[str, UserError] = {}
    done = set()
    results = model(files, batch_size=args.batch_size, stream=True, on_error=skipped.__setitem__, **people)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("predicting", total=len(files))
        for path, group in groupby(results, key=attrgetter("path")):
            target = targets[Path(path)]
            if is_video(path):
                write_video(group, target, lambda text: progress.update(task, description=f"predicting {text}"))
            else:
                for result in group:
                    result.save(target.parent, target.name)
            done.add(path)
            progress.update(task, completed=len(done) + len(skipped))

    print(f"{len(files) - len(skipped)} of {len(files)} done; the results are in {args.out_dir}")
    for message in skipped.values():
        print(f"skipped: {message}")
    return int(bool(skipped))


def choose_targets(files: list[Path], out_dir: Path) -> dict[Path, Path]:
    """Return the path without suffix for the results of each input. Inputs of the same name are numbered."""
    from van_mm.utils.errors import UserError

    numbers, targets = {}, {}
    for file in files:
        name = file.stem
        while name in numbers:  # numbers[stem] is the last number of this stem, so that the loop ends at once
            numbers[file.stem] += 1
            name = f"{file.stem}_{numbers[file.stem]}"
        numbers[name] = 1
        targets[file] = out_dir / name
    inputs = {file.resolve() for file in files}
    folder = out_dir.resolve()
    for target in targets.values():
        for suffix in (".png", "_labels.png", ".mp4"):
            if folder / f"{target.name}{suffix}" in inputs:
                raise UserError(
                    f"--out-dir {out_dir}: {target.name}{suffix} would be written over an input. Give another folder."
                )
    return targets


def read_person_boxes(file: str, score_thr: float) -> dict[str, list]:
    """Read person boxes from a JSON file in the format of COCO's detections, or from COCO's ground truth.

    Returns:
        dict[str, list]: Boxes (x1, y1, x2, y2, score) by the image file's stem without leading zeros.
    """
    from van_mm.utils.errors import UserError

    boxes = {}
    try:
        content = json.loads(Path(file).read_text())
        is_truth = isinstance(content, dict)
        files = {image["id"]: image["file_name"] for image in content["images"]} if is_truth else {}
        categories = content.get("categories", []) if is_truth else []
        person = {one["id"] for one in categories if one["name"] == "person"} or {1}
        for row in content["annotations"] if is_truth else content:
            if row.get("category_id", 1) not in person or row.get("iscrowd") or row.get("score", 1) < score_thr:
                continue
            x, y, w, h = row["bbox"]
            name = row.get("file_name") or files.get(row.get("image_id"))
            stem = Path(name).stem if name else str(row["image_id"])
            boxes.setdefault(stem.lstrip("0") or "0", []).append([x, y, x + w, y + h, row.get("score", 1)])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--person-boxes {file} is neither a list of detections with image_id (or file_name), bbox (x, y, w, h) "
            f"and score, nor COCO's ground truth: {type(error).__name__}: {error}"
        ) from error
    return boxes


def write_video(frames: Iterable, target: Path, report: Callable[[str], None]) -> None:
    """Write the results of a video's frames as TARGET.mp4 and TARGET.json."""
    import cv2

    from van_mm.utils.errors import UserError

    writer, records = None, []
    for result in frames:
        drawn = result.draw()
        if writer is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            frame_rate = cv2.VideoCapture(result.path).get(cv2.CAP_PROP_FPS) or 25
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            writer = cv2.VideoWriter(f"{target}.mp4", codec, frame_rate, drawn.shape[1::-1])
            if not writer.isOpened():
                raise UserError(f"{target}.mp4 can't be written. Give another --out-dir")
        writer.write(drawn)
        record = result.to_dict()
        entry = dict(file=record.pop("file"), size=record.pop("size"))
        records.append(record)
        report(f"{Path(result.path).name}, frame {len(records)}")
    writer.release()
    target.with_name(f"{target.name}.json").write_text(json.dumps(dict(entry, frames=records), indent=1) + "\n")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        sys.exit(main(args))
