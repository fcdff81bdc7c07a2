"""The saliency data sets as their authors distribute them, and what can be wrong with a pair of files."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from van_mm.errors import UserError

GREY_LIMIT = 0.05  # share of a mask's pixels that anti-aliased outlines may make neither black nor white


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its images (JPEG) and masks (8-bit PNG), below the folder that holds all of them.

    Attributes:
        images (str): Folder of the images.
        masks (str): Folder of the masks, which have the images' names.
        count (int): Number of pairs.
        grey (bool): The masks are means over annotators, to be cut at one half, and not black and white.
    """

    images: str
    masks: str
    count: int
    grey: bool = False

    @property
    def prefixes(self) -> dict[str, str]:
        """``data_prefix`` of a data set in mmsegmentation."""
        return dict(img_path=self.images, seg_map_path=self.masks)


LAYOUTS = {
    "DUTS-TR": Layout("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", 10553),
    "DUTS-TE": Layout("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", 5019),
    "DUT-OMRON": Layout("DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG", 5168),
    "PASCAL-S": Layout("PASCAL-S/datasets/imgs/pascal", "PASCAL-S/datasets/masks/pascal", 850, grey=True),
}


def pair_up(images: Path, masks: Path) -> tuple[list[str], list[str], list[str]]:
    """Names (without suffix, sorted) in two folders: of pairs, of images alone, of masks alone.

    Raises:
        UserError: If a folder does not exist.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(
                f"saliency data: no folder {folder}; tools/dataset_converters/saliency.py lists the layouts"
            )
    jpegs = {file.stem for file in images.iterdir() if file.suffix.lower() in (".jpg", ".jpeg")}
    pngs = {file.stem for file in masks.glob("*.png")}
    return sorted(jpegs & pngs), sorted(jpegs - pngs), sorted(pngs - jpegs)


def read_mask(file: str | Path) -> np.ndarray:
    """A mask file's grey values (H, W, uint8).

    Raises:
        UserError: If it is missing, no picture, or not 8 bits deep.
    """
    if not Path(file).is_file():
        raise UserError(f"no mask {file}")
    mask = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED) if Path(file).stat().st_size else None
    if mask is None:
        raise UserError(f"mask {file} is no readable picture ({Path(file).stat().st_size} bytes)")
    if mask.dtype != np.uint8:
        raise UserError(f"mask {file} has 16-bit values; masks are 8-bit, 0 and 255")
    return mask if mask.ndim == 2 else mask[..., :3].max(-1)


def check_mask(mask: np.ndarray, file: str | Path, size: tuple[int, int], grey: bool = False) -> str | None:
    """What is wrong with a mask, in one sentence, or None.

    Args:
        mask (np.ndarray): (H, W, uint8).
        file (str | Path): Where it comes from, for the message.
        size (tuple[int, int]): Height and width of its image.
        grey (bool): Whether values between black and white are to be expected. Defaults to False.
    """
    if mask.shape != tuple(size):
        (h, w), (height, width) = mask.shape, size
        return f"mask {file} is {w}x{h} pixels, its image {width}x{height}"
    if not mask.any():
        return f"mask {file} is empty: no pixel is salient"
    if mask.max() < 128:
        return f"mask {file} has no value above {mask.max()}: a label map? Masks are 0 and 255"
    share = np.mean((mask > 10) & (mask < 245))
    if share > GREY_LIMIT and not grey:
        return (
            f"mask {file} is not binary: {share:.0%} of its pixels are neither black nor white (where shades are "
            "meant, the data set takes grey=True)"
        )
    return None
