#!/usr/bin/env python
"""Predict on pictures and videos with any experiment of the suite; the codebase that runs follows from the config.

python tools/infer.py seg/upernet_van_b2 CHECKPOINT street.jpg holiday/ 'frames/*.png' --out-dir predictions
python tools/infer.py pose/simplebaseline_van_b2_coco_256x192 CHECKPOINT people.jpg --person-boxes detections.json
python tools/infer.py pose/simplebaseline_van_b2_coco_256x192 CHECKPOINT dance.mp4 --detector CONFIG CHECKPOINT

For NAME.jpg it writes NAME.png, the prediction drawn on the picture, and NAME.json: class scores, boxes (x1, y1, x2,
y2, in pixels) and masks, areas of classes, or keypoints. Segmentation also writes NAME_labels.png: class indices
(panoptic: class + 1000 * instance, in 16 bits; saliency: 0 to 255). A video becomes NAME.mp4, and NAME.json with a list
of frames. A file that can't be read is reported and skipped; the exit code is then 1.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from _arguments import add_config_arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, a name below configs/, or an upstream name (mmdet::...)")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, videos, folders, quoted patterns")
    parser.add_argument("--out-dir", default="predictions", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="pictures at once (default: 1)")
    parser.add_argument("--fold", action="store_true", help="fold BatchNorm and LayerScale into convolutions; faster")
    parser.add_argument("--amp", action="store_true", help="backbone in float16 on a GPU, bfloat16 on the CPU")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--score-thr", type=float, default=0.3, help="detections below it are left out (default: 0.3)")
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="classes that classification tells (default: 5)"
    )
    people = parser.add_mutually_exclusive_group()
    people.add_argument(
        "--person-boxes",
        metavar="FILE.json",
        help="for pose: detections in COCO's format; image_id is the file's name as a number, or file_name names it",
    )
    people.add_argument(
        "--detector",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="for pose: finds the people; default: whole picture",
    )
    add_config_arguments(parser)
    return parser.parse_args()


def read_boxes(file: str, score_thr: float) -> dict[str, list]:
    """People (x1, y1, x2, y2, score) by the file's stem, from a JSON in the format of COCO's detections."""
    from van_mm.errors import UserError

    boxes = {}
    try:
        for found in json.loads(Path(file).read_text()):
            if found.get("category_id", 1) == 1 and found.get("score", 1) >= score_thr:
                x, y, w, h = found["bbox"]
                stem = Path(found["file_name"]).stem if "file_name" in found else str(found["image_id"])
                boxes.setdefault(stem.lstrip("0") or "0", []).append([x, y, x + w, y + h, found.get("score", 1)])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--person-boxes {file} is no list of detections with image_id (or file_name), bbox (x, y, w, h) and "
            f"score: {type(error).__name__}: {error}"
        ) from error
    return boxes


def load_predictor(args: argparse.Namespace, checkpoint: str):
    """A predictor on the device that is asked for."""
    import torch

    from van_mm import fold
    from van_mm.launch import build_model, device_errors, load_config
    from van_mm.visualization.predict import Predictor

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg = load_config(args)
    model = build_model(cfg, checkpoint)
    with device_errors(device):
        model = model.to(device)
    return Predictor(cfg, fold(model) if args.fold else model, args.amp, args.score_thr, args.top)


def out_files(files: list[Path], out_dir: Path) -> dict[Path, Path]:
    """Where the results of each input go, without a suffix: its name, numbered where several have the same."""
    from van_mm.errors import UserError

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
                raise UserError(f"--out-dir {out_dir}: {target.name}{suffix} would be written over an input")
    return targets


def batches(files: list[Path], size: int, skipped: dict[str, str]) -> Iterator[list[tuple[Path, object]]]:
    """Pictures in groups of ``size``; those that can't be read are noted."""
    from van_mm.errors import UserError
    from van_mm.visualization.inputs import read_image

    batch = []
    for file in files:
        try:
            batch.append((file, read_image(file)))
        except UserError as error:
            skipped[str(file)] = str(error)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def main(args: argparse.Namespace) -> int:
    from van_mm.errors import UserError
    from van_mm.visualization.inputs import VIDEOS, find_inputs

    if args.batch_size < 1 or args.top < 1:
        raise UserError("--batch-size and --top must be at least 1")
    files = find_inputs(args.inputs)
    targets = out_files(files, Path(args.out_dir))
    boxes = read_boxes(args.person_boxes, args.score_thr) if args.person_boxes else None
    predictor = load_predictor(args, args.checkpoint)
    if predictor.task != "mmpose" and (boxes is not None or args.detector):
        raise UserError(f"--person-boxes and --detector are for pose; {args.config} is of {predictor.task}")
    detector = None
    if args.detector:
        options = dict(vars(args), config=args.detector[0], cfg_options={})
        detector = load_predictor(argparse.Namespace(**options), args.detector[1])
        if detector.task != "mmdet" or "person" not in (detector.classes or ()):
            raise UserError(f"--detector {args.detector[0]} is no detector with a class 'person'")

    import cv2
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from van_mm.visualization.inputs import read_video

    def people(file: Path, image: np.ndarray) -> np.ndarray | None:
        if boxes is not None:
            return np.array(boxes.get(file.stem.lstrip("0") or "0", []), np.float32).reshape(-1, 5)
        if detector is None:
            return None
        found = detector.record(detector([image])[0])["instances"]
        found = [[*one["bbox"], one["score"]] for one in found if one["class"] == "person"]
        return np.array(found, np.float32).reshape(-1, 5)

    def predict(batch: list[tuple[Path, np.ndarray]]) -> list:
        images = [image for _, image in batch]
        return predictor(images, [people(*one) for one in batch])

    Path(args.out_dir).mkdir(parents=True, exist_ok=True)
    skipped: dict[str, str] = {}
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("predicting", total=len(files))
        for batch in batches([file for file in files if file not in videos], args.batch_size, skipped):
            for (file, image), sample in zip(batch, predict(batch), strict=True):
                target = targets[file]
                write(f"{target}.png", predictor.draw(image, sample))
                labels = predictor.labels(sample)
                if labels is not None:
                    write(f"{target}_labels.png", labels.astype(np.uint16 if labels.max() > 255 else np.uint8))
                record = dict(file=str(file), size=image.shape[1::-1], **predictor.record(sample))
                Path(f"{target}.json").write_text(json.dumps(record, indent=1) + "\n")
            progress.update(bar, completed=files.index(batch[-1][0]) + 1)
        for file in videos:
            rate = cv2.VideoCapture(str(file)).get(cv2.CAP_PROP_FPS) or 25
            writer, records = None, []
            try:
                for frame in read_video(file):
                    (sample,) = predict([(file, frame)])
                    drawn = predictor.draw(frame, sample)
                    if writer is None:
                        kind = cv2.VideoWriter_fourcc(*"mp4v")
                        writer = cv2.VideoWriter(f"{targets[file]}.mp4", kind, rate, drawn.shape[1::-1])
                    writer.write(drawn)
                    records.append(predictor.record(sample))
                    progress.update(bar, description=f"predicting {file.name}, frame {len(records)}")
            except UserError as error:
                skipped[str(file)] = str(error)
                continue
            writer.release()
            record = dict(file=str(file), size=frame.shape[1::-1], frames=records)
            Path(f"{targets[file]}.json").write_text(json.dumps(record, indent=1) + "\n")
            progress.advance(bar)
    print(f"{len(files) - len(skipped)} of {len(files)} done; pictures and JSON in {args.out_dir}")
    for message in skipped.values():
        print(f"skipped: {message}")
    return int(bool(skipped))


def write(file: str, image) -> None:
    """Write a picture."""
    import cv2

    from van_mm.errors import UserError

    if not cv2.imwrite(file, image):
        raise UserError(f"{file} can't be written")


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        sys.exit(main(args))
