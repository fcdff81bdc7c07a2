"""Turn whatever a user predicts on into images: files, folders, URLs, videos, and images in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image, ImageOps

from van_mm.utils.errors import UserError
from van_mm.utils.image_files import (
    VIDEO_SUFFIXES,
    decode_image,
    find_input_files,
    fit_channels,
    iter_video_frames,
    read_image,
)

READING_THREADS = 4  # our choice; OpenCV decodes without holding Python's lock
SCHEMES = ("http://", "https://")


@dataclass
class LoadedImage:
    """An image in memory, and where it came from.

    Attributes:
        pixels (np.ndarray): Image (H, W, 3), uint8, BGR, or with as many channels as the model reads.
        path (str): File or URL; empty for an image that was in memory already.
        frame (int, optional): Number of the frame, counted from 0, if the image is of a video.
    """

    pixels: np.ndarray
    path: str = ""
    frame: int | None = None


def list_sources(inputs) -> tuple[Iterable, bool, bool]:
    """Split the input of a prediction into sources of images, without reading any.

    Args:
        inputs: See :meth:`van_mm.apis.inferencer.Inferencer.__call__`.

    Returns:
        tuple[Iterable, bool, bool]: Sources for :func:`iter_images`; whether the input is one image; and whether it may
        be endless or large, as videos and generators are.

    Raises:
        UserError: If a file does not exist, or if a folder or a pattern has no images.
    """
    if isinstance(inputs, (str, Path)):
        text = str(inputs)
        sources = [text] if text.startswith(SCHEMES) else find_input_files([text])
        is_one = text.startswith(SCHEMES) or Path(text).is_file()
        has_video = any(map(is_video, sources))
        return sources, is_one and not has_video, has_video
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        return (inputs, False, False) if inputs.ndim == 4 else ([inputs], True, False)
    if isinstance(inputs, Image.Image):
        return [inputs], True, False
    if isinstance(inputs, Iterator):
        return chain.from_iterable(list_sources(one)[0] for one in inputs), False, True
    if isinstance(inputs, Iterable):
        parts = [list_sources(one) for one in inputs]
        return [source for sources, _, _ in parts for source in sources], False, any(lazy for _, _, lazy in parts)
    raise UserError(
        f"a {type(inputs).__name__} is no image. Give a path, a URL, an array, a PIL image, a tensor or a list of them"
    )


def is_video(source) -> bool:
    """Return whether a source is a file or a URL with the suffix of a video."""
    if isinstance(source, Path):
        return source.suffix.lower() in VIDEO_SUFFIXES
    return isinstance(source, str) and Path(urlparse(source).path).suffix.lower() in VIDEO_SUFFIXES


def iter_images(
    sources: Iterable, channels: int, batch_size: int, on_error: Callable[[str, UserError], None] | None = None
) -> Iterator[LoadedImage]:
    """Yield the images of sources in their order. Threads read and decode files before they are needed.

    Args:
        sources (Iterable): From :func:`list_sources`.
        channels (int): Number of channels that the model reads.
        batch_size (int): Number of images that are used at a time. At most two batches are read ahead.
        on_error (Callable, optional): Called with the path and the error of a file that cannot be read. The file is
            skipped. By default, the error is raised.

    Yields:
        LoadedImage: An image.

    Raises:
        UserError: If a source cannot be read and there is no ``on_error``.
    """
    depth = 2 * batch_size + READING_THREADS
    pool, window = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="van_mm-read"), deque()
    try:
        for path, read in iter_readers(sources, channels):
            window.append((path, pool.submit(read)))
            if len(window) > depth:
                yield from get_image(*window.popleft(), on_error)
        while window:
            yield from get_image(*window.popleft(), on_error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def get_image(path: str, reading, on_error: Callable[[str, UserError], None] | None) -> list[LoadedImage]:
    """Return the image of a future in a list, or nothing if ``on_error`` was told of its error."""
    try:
        return [reading.result()]
    except UserError as error:
        if on_error is None:
            raise
        on_error(path, error)
        return []


def iter_readers(sources: Iterable, channels: int) -> Iterator[tuple[str, Callable[[], LoadedImage]]]:
    """Yield a path and a function that reads the image, for every image and every frame of a video."""
    for source in sources:
        path = str(source) if isinstance(source, (str, Path)) else ""
        if not is_video(source):
            yield path, partial(read_source, source, channels)
            continue
        try:
            for number, frame in enumerate(iter_video_frames(path)):
                yield path, partial(LoadedImage, fit_channels(frame, max(3, channels), path), path, number)
        except UserError as error:
            yield path, partial(raise_error, error)


def raise_error(error: Exception) -> None:
    """Raise an error."""
    raise error


def read_source(source, channels: int) -> LoadedImage:
    """Read or convert one source that is not a video.

    Raises:
        UserError: If the source is not an image that the model can read.
    """
    if isinstance(source, (str, Path)):
        path = str(source)
        wanted = max(3, channels)
        pixels = decode_image(download(path), wanted, path) if path.startswith(SCHEMES) else read_image(path, wanted)
        return LoadedImage(pixels, path)
    return LoadedImage(to_bgr_array(source, channels))


def download(url: str) -> np.ndarray:
    """Return the bytes at a URL as an array.

    Raises:
        UserError: If the download fails.
    """
    try:
        with urlopen(Request(url, headers={"User-Agent": "van_mm"}), timeout=60) as response:
            return np.frombuffer(response.read(), np.uint8)
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{url} can't be downloaded ({error}). Give a file") from error


def to_bgr_array(image, channels: int = 3) -> np.ndarray:
    """Convert an image in memory to an array as OpenCV reads it.

    Args:
        image (np.ndarray | PIL.Image.Image | Tensor): An array (H, W) or (H, W, C) in BGR; a PIL image; or a tensor
            (C, H, W) in RGB. Integers are from 0 to 255 (16 bits: to 65535), floating-point numbers from 0 to 1 or 255.
        channels (int): Number of channels that the model reads. Defaults to 3.

    Returns:
        np.ndarray: Image (H, W) or (H, W, C), uint8, BGR.

    Raises:
        UserError: If the shape or the values are not those of an image.

    Example:
        >>> import torch
        >>> to_bgr_array(torch.tensor([1.0, 0.5, 0.0]).reshape(3, 1, 1)).tolist()  # a pixel in RGB
        [[[0, 128, 255]]]
    """
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        if not image.mode.startswith(("L", "I", "F", "1")) and not (channels > 3 and image.mode == "RGBA"):
            image = image.convert("RGB")
        pixels = np.asarray(image)
        is_rgb = pixels.ndim == 3
    elif isinstance(image, torch.Tensor):
        if image.ndim not in (2, 3) or image.ndim == 3 and image.shape[0] > max(4, channels):
            raise UserError(f"a tensor of shape {tuple(image.shape)} is no image. Give (C, H, W) in RGB")
        pixels = image.detach().cpu().float().numpy() if image.is_floating_point() else image.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
        is_rgb = True
    elif isinstance(image, np.ndarray):
        if image.ndim not in (2, 3):
            raise UserError(f"an array of shape {image.shape} is no image. Give (H, W, C) in BGR")
        pixels, is_rgb = image, False
    else:
        raise UserError(f"a {type(image).__name__} is no image. Give a path, a URL, an array, a PIL image or a tensor")
    if 0 in pixels.shape:
        raise UserError(f"the image is empty: its shape is {pixels.shape}. Give one with pixels")
    pixels = to_bytes(pixels)
    if is_rgb and pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return np.ascontiguousarray(pixels)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels of any type to uint8.

    Raises:
        UserError: If the values are not those of an image.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 65535):  # also for NaN
        raise UserError(
            f"the image has values from {low:g} to {high:g}. Give pixels from 0 to 255, or from 0 to 1 as "
            "floating-point numbers, without normalization"
        )
    if pixels.dtype.kind == "f" and high <= 1:
        pixels = pixels * 255
    elif high > 255:
        pixels = pixels / 257  # 16 bits
    return np.round(pixels).astype(np.uint8)
