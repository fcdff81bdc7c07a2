"""Pictures that users name on the command line: files, folders, patterns, videos."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from van_mm.errors import UserError

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


def find_inputs(sources: Sequence[str]) -> list[Path]:
    """The files that are meant, in order, each once. A folder stands for every picture and video in it, at any depth.

    Raises:
        UserError: If a source is not there, or matches or holds nothing.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES | VIDEOS and p.is_file())
            if not files:
                raise UserError(f"{source}: no picture or video in this folder")
        elif path.is_file():
            files = [path]
        else:
            files = [Path(file) for file in sorted(glob.glob(source, recursive=True)) if Path(file).is_file()]
            if not files:
                raise UserError(f"{source}: no such file, folder or pattern")
        found |= dict.fromkeys(files)
    return list(found)


def read_image(file: str | Path) -> np.ndarray:
    """A picture as (H, W, 3, uint8, BGR), turned as its EXIF says; grey, 16-bit and transparent ones are converted.

    Raises:
        UserError: If the file is missing or no picture.
    """
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise UserError(f"{file} is no picture that OpenCV can read ({data.size} bytes)")
    return image


def read_video(file: str | Path) -> Iterator[np.ndarray]:
    """The frames (H, W, 3, uint8, BGR) of a video.

    Raises:
        UserError: If it can't be read.
    """
    video = cv2.VideoCapture(str(file))
    ok, frame = video.read()
    if not ok:
        raise UserError(f"{file} is no video that OpenCV can read")
    while ok:
        yield frame
        ok, frame = video.read()
    video.release()
