"""Generate the demo version of a data set if it does not exist yet."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from van_mm.demo.classification import write_cub, write_imagenet
from van_mm.demo.coco import write_coco
from van_mm.demo.segmentation import write_ade, write_saliency
from van_mm.demo.writing import SEED

DEMO_VERSION = 2  # increment it when drawings or formats change, so that older folders are generated again

# The function that writes the demo version, by data set class.
WRITERS: dict[str, Callable[..., None]] = {
    "ImageNet": write_imagenet,
    "ImageNet21k": write_imagenet,
    "CUB": write_cub,
    "ADE20KDataset": write_ade,
    "SaliencyDataset": write_saliency,
    "CocoDataset": write_coco,
    "CocoPanopticDataset": write_coco,
}


def make_demo_data(dataset_type: str, folder: str | Path, **sizes: int) -> None:
    """Generate the demo version of a data set.

    Nothing is written if ``folder`` already holds this version of the demo data. The data are generated in a temporary
    folder that is renamed at the end, so an interrupted call leaves no incomplete data set.

    Args:
        dataset_type (str): Class name of the data set, a key of ``WRITERS``. A scope in front of it is ignored.
        folder (str | Path): Root of the generated data set.
        sizes (int): ``train`` and ``val``, the numbers of images. Defaults to those of the data set's writer.

    Raises:
        ValueError: If the data set has no demo version, or ``folder`` holds files that are not demo data.

    Example:
        >>> make_demo_data("ADE20KDataset", "data/demo/ade", train=8, val=2)
    """
    name = dataset_type.rpartition(".")[2]
    if name not in WRITERS:
        raise ValueError(f"no demo data for data set '{dataset_type}'. Choose one of {', '.join(WRITERS)}")
    folder = Path(folder)
    stamp = folder / ".demo.json"
    expected = dict(writer=WRITERS[name].__name__, version=DEMO_VERSION, seed=SEED)

    def is_complete() -> bool:
        return stamp.is_file() and json.loads(stamp.read_text()) == expected

    if is_complete():
        return
    if folder.exists() and any(folder.iterdir()) and not stamp.exists():
        raise ValueError(f"{folder} holds files that are not demo data. Choose another folder with --demo-root")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        os.chmod(draft, 0o755)
        WRITERS[name](draft, **sizes)
        (draft / stamp.name).write_text(json.dumps(expected))
        if not is_complete():  # another process may have been faster, and read its data by now
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # of a folder that is complete
            draft.rename(folder)
        if not is_complete():
            raise OSError(f"{draft} can't be renamed to {folder}")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
