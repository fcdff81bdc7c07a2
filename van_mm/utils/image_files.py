"""Find and read the images and videos that a user names."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from van_mm.utils.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


def find_input_files(sources: Sequence[str]) -> list[Path]:
    """Return the files that a list of paths, folders and patterns refers to.

    Args:
        sources (Sequence[str]): Files, glob patterns, and folders. A folder stands for all images and videos below it.

    Returns:
        list[Path]: The files in the order of the sources, without duplicates.

    Raises:
        UserError: If a source does not exist, matches no file, or is a folder without images and videos.
    """
    found_files: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and p.is_file()
            )
            if not files:
                raise UserError(f"{source}: no image or video in this folder")
        elif path.is_file():
            files = [path]
        else:
            files = [Path(file) for file in sorted(glob.glob(source, recursive=True)) if Path(file).is_file()]
            if not files:
                raise UserError(f"{source}: no such file, folder or pattern")
        found_files |= dict.fromkeys(files)
    return list(found_files)


def fit_channels(image: np.ndarray, channels: int, name: str = "the image") -> np.ndarray:
    """Convert an image to the number of channels that a model reads.

    Args:
        image (np.ndarray): Image (H, W) or (H, W, C), BGR.
        channels (int): Number of channels. 1 gives a gray image, 3 leaves out those after the third.
        name (str): What the message calls the image. Defaults to "the image".

    Returns:
        np.ndarray: Image (H, W) if ``channels`` is 1, else (H, W, channels).

    Raises:
        UserError: If the model reads channels that the image does not have.
    """
    found = 1 if image.ndim == 2 else image.shape[2]
    if found == channels:
        return image.reshape(image.shape[:2]) if channels == 1 else image
    if channels == 1 and found >= 3:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)
    if channels == 3:
        if found < 3:
            return cv2.cvtColor(np.ascontiguousarray(image.reshape(*image.shape[:2], -1)[..., 0]), cv2.COLOR_GRAY2BGR)
        return np.ascontiguousarray(image[..., :3])
    raise UserError(
        f"{name} has {found} channels, but the model reads {channels}. Give images with {channels} channels"
    )


def read_image(file: str | Path, channels: int = 3) -> np.ndarray:
    """Read an image file of any format that OpenCV knows.

    Args:
        file (str | Path): The file. Gray, 16-bit and transparent images are converted.
        channels (int): Number of channels that a model reads. Channels beyond the third, such as a PNG's alpha, are
            read if it is more than 3. Defaults to 3.

    Returns:
        np.ndarray: The image (H, W, 3), uint8, BGR, rotated as its EXIF orientation says. If ``channels`` is more than
        3, the image (H, W, channels) as it is stored. If it is 1, a gray image (H, W).

    Raises:
        UserError: If the file is missing or is not an image, or if it has fewer than ``channels`` channels.
    """
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    return decode_image(data, channels, str(file))


def decode_image(data: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Decode the bytes (uint8) of an image file, see :func:`read_image`. ``name`` is what the message calls it."""
    image = cv2.imdecode(data, cv2.IMREAD_COLOR if channels <= 3 else cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise UserError(f"{name} is not an image that OpenCV can read ({data.size} bytes)")
    return image if channels == 3 else fit_channels(image, channels, name)


def iter_video_frames(file: str | Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video.

    Args:
        file (str | Path): The video, in any format that OpenCV knows.

    Yields:
        np.ndarray: A frame (H, W, 3), uint8, BGR.

    Raises:
        UserError: If the file is missing or is not a video.
    """
    video = cv2.VideoCapture(str(file))
    ok, frame = video.read()
    if not ok:
        raise UserError(f"{file} is not a video that OpenCV can read")
    while ok:
        yield frame
        ok, frame = video.read()
    video.release()
