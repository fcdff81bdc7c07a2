"""Recognise the layout of a folder of data, and describe what it holds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from van_mm.datasets.folders.boxes import read_voc, read_yolo
from van_mm.datasets.folders.coco import read_coco
from van_mm.datasets.folders.found import Cache, FolderData, list_images
from van_mm.datasets.folders.label_maps import read_label_maps
from van_mm.datasets.folders.labels import read_class_folders, read_csv
from van_mm.utils.errors import UserError

MAX_ROWS = 40  # classes that the table shows; our choice
LAYOUTS = (
    "class folders (train/cat/1.jpg or cat/1.jpg), CSV of file and label, COCO JSON, Pascal VOC XML, YOLO txt with "
    "data.yaml, or images with label PNGs (images/ and masks/)"
)


def list_readers(folder: Path, seed: int, ignored: int | None) -> dict[str, list[Callable]]:
    """Return the functions that can read each kind of data, the most specific ones first."""

    def cache(kind: str) -> Cache:
        return Cache(folder, kind, seed, ignored)

    return {
        "classes": [
            lambda: read_csv(folder, cache("classes"), seed),
            lambda: read_class_folders(folder, cache("classes"), seed),
        ],
        "boxes": [
            lambda: read_coco(folder, "boxes", cache("boxes"), seed),
            lambda: read_yolo(folder, "boxes", cache("boxes"), seed),
            lambda: read_voc(folder, cache("boxes"), seed),
            lambda: read_coco(folder, "keypoints", cache("keypoints"), seed),
        ],
        "keypoints": [
            lambda: read_coco(folder, "keypoints", cache("keypoints"), seed),
            lambda: read_yolo(folder, "keypoints", cache("keypoints"), seed),
        ],
        "panoptic": [lambda: read_coco(folder, "panoptic", cache("panoptic"), seed)],
        "label maps": [lambda: read_label_maps(folder, cache("label maps"), seed, ignored)],
    }


def read_folder(folder: str | Path, wanted: str, seed: int = 0, ignored: int | None = None) -> FolderData:
    """Read a folder of data.

    Args:
        folder (str | Path): The folder.
        wanted (str): Kind of labels to read if the folder has several: ``'classes'``, ``'boxes'``, ``'keypoints'``,
            ``'panoptic'`` or ``'label maps'``. Boxes may come with masks.
        seed (int): Seed of the validation part, if there is none. Defaults to 0.
        ignored (int, optional): Value of label maps that stands for no class, in addition to 255.

    Returns:
        FolderData: Data of the wanted kind, or of another one if the folder has only that.

    Raises:
        UserError: If the folder does not exist, holds no image or has no known layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder. Give the folder that holds the images and their labels")
    folder = folder.resolve()
    if not list_images(folder):
        raise UserError(f"--data {folder}: no image in this folder. Known layouts: {LAYOUTS}")
    readers = list_readers(folder, seed, ignored)
    for read in readers.pop(wanted):
        if (data := read()) is not None:
            return data
    for kind in ("panoptic", "keypoints", "boxes", "label maps", "classes"):
        for read in readers.get(kind, ()):
            try:
                data = read()
            except UserError:  # of a layout that the config does not need anyway
                continue
            if data is not None:
                return data
    raise UserError(f"--data {folder}: its layout is not known. Known layouts: {LAYOUTS}")


def describe_folder(data: FolderData) -> str:
    """Return a table of what was found: images, labels of each class, sizes, and what is unusual or wrong."""
    title = {"masks": "boxes with masks", "panoptic": "panoptic segments"}.get(data.kind, data.kind)
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for split in data.splits:
        table.add_column(split, justify="right")
    table.add_row("images", *(str(part.images) for part in data.splits.values()))
    for name in data.classes[:MAX_ROWS]:
        table.add_row(f"  {name}", *(str(part.counts[name]) for part in data.splits.values()))
    if len(data.classes) > MAX_ROWS:
        table.add_row(f"  and {len(data.classes) - MAX_ROWS} more")
    console = Console(width=110, file=None, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [f"{data.folder}: {data.layout}, {title}", *(line.rstrip() for line in capture.get().splitlines())]
    lines.append(f"{len(data.classes)} classes, counted in {data.counted}; {describe_sizes(data.sizes)}")
    if data.keypoints:
        lines.append(f"{len(data.keypoints['names'])} keypoints, {len(data.keypoints['skeleton'])} links")
    if data.label_map:
        changes = [f"{old} -> {'ignored' if new == 255 else new}" for old, new in data.label_map]
        lines.append(f"values of label maps: {', '.join(changes[:12])}{', ...' if len(changes) > 12 else ''}")
    lines += [f"note: {note}" for note in data.notes]
    return "\n".join(lines)


def describe_sizes(sizes: list[tuple[int, int]]) -> str:
    """Return the range of image sizes in one phrase."""
    if not sizes:
        return "image sizes are not known"
    if len(set(sizes)) == 1:
        return f"all images have {sizes[0][0]} x {sizes[0][1]} pixels"
    widths, heights = np.array(sizes).T
    return (
        f"images have {widths.min()} x {heights.min()} to {widths.max()} x {heights.max()} pixels, "
        f"{int(np.median(widths))} x {int(np.median(heights))} in the median"
    )
