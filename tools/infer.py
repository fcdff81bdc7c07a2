#!/usr/bin/env python
"""Predict on images and videos with any experiment of the suite. The config decides which codebase runs.

python tools/infer.py seg/upernet_van_b2 CHECKPOINT street.jpg holiday/ 'frames/*.png' --out-dir predictions
python tools/infer.py pose/simplebaseline_van_b2_coco_256x192 CHECKPOINT people.jpg --person-boxes detections.json
python tools/infer.py pose/simplebaseline_van_b2_coco_256x192 CHECKPOINT dance.mp4 --detector CONFIG CHECKPOINT

For each image NAME.jpg, the tool writes two files. NAME.png shows the prediction drawn on the image. NAME.json holds
the class scores, the boxes (x1, y1, x2, y2 in pixels) and masks, the area of each class, or the keypoints.

Segmentation also writes the map itself to NAME_labels.png: class indices for semantic segmentation, class + 1000 *
instance in 16 bits for panoptic segmentation, and 0 to 255 for saliency.

A video becomes NAME.mp4, and its NAME.json holds a list of frames. A file that cannot be read is skipped and reported,
and the exit code is then 1.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
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
        help="for pose: person boxes in the format of COCO's detections; the image is given by file_name, or by "
        "image_id if the file's name is that number",
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
    from rich.console import Console
    from rich.progress import Progress

    from van_mm.utils.errors import UserError
    from van_mm.utils.image_files import VIDEO_SUFFIXES, find_input_files

    if args.batch_size < 1 or args.top < 1:
        raise UserError("--batch-size and --top must be at least 1")

    # The inputs, and the paths of their results.
    files = find_input_files(args.inputs)
    targets = choose_targets(files, Path(args.out_dir))
    boxes = read_person_boxes(args.person_boxes, args.score_thr) if args.person_boxes else None

    # The model, and for pose the detector.
    options = dict(device=args.device, folded=args.fold, amp=args.amp, score_thr=args.score_thr, top=args.top)
    predictor = load_predictor(load_config(args), args.checkpoint, **options)
    if predictor.task != "mmpose" and (boxes is not None or args.detector):
        raise UserError(
            f"--person-boxes and --detector are for pose estimation, but {args.config} is a config of {predictor.task}"
        )
    detector = None
    if args.detector:
        detector_config, detector_checkpoint = args.detector
        detector = load_predictor(load_config(args, detector_config, cfg_options={}), detector_checkpoint, **options)
        if detector.task != "mmdet" or "person" not in (detector.classes or ()):
            raise UserError(f"--detector {detector_config} is no detector with a class 'person'")
    find_boxes = partial(find_people, boxes=boxes, detector=detector)

    # Images are predicted in batches, videos frame by frame.
    Path(args.out_dir).mkdir(parents=True, exist_ok=True)
    images = [file for file in files if file.suffix.lower() not in VIDEO_SUFFIXES]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    skipped: dict[Path, str] = {}
    with Progress(console=Console(stderr=True)) as progress:
        report = partial(progress.update, progress.add_task("predicting", total=len(files)))
        predict_images(images, targets, args.batch_size, predictor, find_boxes, skipped, report)
        predict_videos(videos, targets, predictor, find_boxes, skipped, report)

    print(f"{len(files) - len(skipped)} of {len(files)} done; the results are in {args.out_dir}")
    for message in skipped.values():
        print(f"skipped: {message}")
    return int(bool(skipped))


def choose_targets(files: list[Path], out_dir: Path) -> dict[Path, Path]:
    """Return the path without suffix for the results of each input. Inputs of the same name are numbered."""
    from van_mm.utils.errors import UserError

    taken, targets = set(), {}
    for file in files:
        name, number = file.stem, 1
        while name in taken:
            number += 1
            name = f"{file.stem}_{number}"
        taken.add(name)
        targets[file] = out_dir / name
    inputs = {file.resolve() for file in files}
    for target in targets.values():
        for suffix in (".png", "_labels.png", ".mp4"):
            if target.with_name(target.name + suffix).resolve() in inputs:
                raise UserError(
                    f"--out-dir {out_dir}: {target.name}{suffix} would be written over an input. Give another folder."
                )
    return targets


def read_person_boxes(file: str, score_thr: float) -> dict[str, list]:
    """Read person boxes from a JSON file in the format of COCO's detections.

    Returns:
        dict[str, list]: Boxes (x1, y1, x2, y2, score) by the image file's stem without leading zeros.
    """
    from van_mm.utils.errors import UserError

    boxes = {}
    try:
        for detection in json.loads(Path(file).read_text()):
            if detection.get("category_id", 1) == 1 and detection.get("score", 1) >= score_thr:
                x, y, w, h = detection["bbox"]
                stem = Path(detection["file_name"]).stem if "file_name" in detection else str(detection["image_id"])
                box = [x, y, x + w, y + h, detection.get("score", 1)]
                boxes.setdefault(stem.lstrip("0") or "0", []).append(box)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--person-boxes {file} is not a list of detections with image_id (or file_name), bbox (x, y, w, h) and "
            f"score: {type(error).__name__}: {error}"
        ) from error
    return boxes


def load_predictor(cfg, checkpoint: str, device: str | None, folded: bool, amp: bool, score_thr: float, top: int):
    """Build an inferencer of a config and a checkpoint."""
    import torch

    from van_mm import fold
    from van_mm.apis.build import build_model
    from van_mm.apis.inferencer import Inferencer
    from van_mm.utils.errors import wrap_device_errors

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(cfg, checkpoint)
    with wrap_device_errors(device):
        model = model.to(device)
    return Inferencer(cfg, fold(model) if folded else model, amp, score_thr, top)


def find_people(file: Path, image, boxes: dict[str, list] | None, detector):
    """Return the person boxes (N, 5) of an image, or None if there are neither given boxes nor a detector."""
    import numpy as np

    if boxes is not None:
        people = boxes.get(file.stem.lstrip("0") or "0", [])
    elif detector is not None:
        instances = detector.record(detector([image])[0])["instances"]
        people = [[*found["bbox"], found["score"]] for found in instances if found["class"] == "person"]
    else:
        return None
    return np.array(people, np.float32).reshape(-1, 5)


def predict_images(
    files: list[Path],
    targets: dict[Path, Path],
    batch_size: int,
    predictor,
    find_boxes: Callable,
    skipped: dict[Path, str],
    report: Callable,
) -> None:
    """Predict on images in batches, and write the results. Unreadable files go into ``skipped`` with the reason."""
    import numpy as np

    for batch in iter_batches(files, batch_size, skipped, max(3, predictor.channels)):
        samples = predictor([image for _, image in batch], [find_boxes(file, image) for file, image in batch])
        for (file, image), sample in zip(batch, samples, strict=True):
            target = targets[file]
            write_image(f"{target}.png", predictor.draw(image, sample))
            labels = predictor.labels(sample)
            if labels is not None:
                write_image(f"{target}_labels.png", labels.astype(np.uint16 if labels.max() > 255 else np.uint8))
            write_record(target, file, image, **predictor.record(sample))
        report(completed=files.index(batch[-1][0]) + 1)


def iter_batches(
    files: list[Path], size: int, skipped: dict[Path, str], channels: int
) -> Iterator[list[tuple[Path, object]]]:
    """Read images and yield them with their files in batches. Unreadable files go into ``skipped``."""
    from van_mm.utils.errors import UserError
    from van_mm.utils.image_files import read_image

    batch = []
    for file in files:
        try:
            batch.append((file, read_image(file, channels)))
        except UserError as error:
            skipped[file] = str(error)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def predict_videos(
    files: list[Path],
    targets: dict[Path, Path],
    predictor,
    find_boxes: Callable,
    skipped: dict[Path, str],
    report: Callable,
) -> None:
    """Predict on videos frame by frame, and write the results. Unreadable files go into ``skipped`` with the reason."""
    import cv2

    from van_mm.utils.errors import UserError
    from van_mm.utils.image_files import iter_video_frames

    for file in files:
        frame_rate = cv2.VideoCapture(str(file)).get(cv2.CAP_PROP_FPS) or 25
        writer, records = None, []
        try:
            for frame in iter_video_frames(file):
                (sample,) = predictor([frame], [find_boxes(file, frame)])
                drawn = predictor.draw(frame, sample)
                if writer is None:
                    codec = cv2.VideoWriter_fourcc(*"mp4v")
                    writer = cv2.VideoWriter(f"{targets[file]}.mp4", codec, frame_rate, drawn.shape[1::-1])
                writer.write(drawn)
                records.append(predictor.record(sample))
                report(description=f"predicting {file.name}, frame {len(records)}")
        except UserError as error:
            skipped[file] = str(error)
            continue
        writer.release()
        write_record(targets[file], file, frame, frames=records)
        report(advance=1)


def write_image(file: str, image) -> None:
    """Write an image (H, W, 3) or (H, W)."""
    import cv2

    from van_mm.utils.errors import UserError

    if not cv2.imwrite(file, image):
        raise UserError(f"{file} can't be written")


def write_record(target: Path, file: Path, image, **prediction) -> None:
    """Write the prediction on an input as JSON."""
    record = dict(file=str(file), size=image.shape[1::-1], **prediction)
    Path(f"{target}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        sys.exit(main(args))
