"""Folder layouts of the saliency data sets as their authors distribute them, and checks of their files."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from van_mm.utils.errors import UserError

MAX_GREY_SHARE = 0.05  # of a mask's pixels, which leaves room for anti-aliased outlines (our choice)


@dataclass(frozen=True)
class SaliencyLayout:
    """Folders of a data set's images (JPEG) and masks (8-bit PNG), relative to the folder of all saliency data sets.

    Attributes:
        images (str): Folder of the images.
        masks (str): Folder of the masks. An image and its mask have the same name.
        count (int): Number of pairs in the complete data set.
        grey (bool): Whether the masks are averages over annotators, which have to be cut at one half. Otherwise they
            are black and white. Defaults to False.
    """

    images: str
    masks: str
    count: int
    grey: bool = False

    @property
    def prefixes(self) -> dict[str, str]:
        """Return the ``data_prefix`` of an mmsegmentation data set."""
        return dict(img_path=self.images, seg_map_path=self.masks)


SALIENCY_LAYOUTS = {
    "DUTS-TR": SaliencyLayout("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", 10553),
    "DUTS-TE": SaliencyLayout("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", 5019),
    "DUT-OMRON": SaliencyLayout("DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG", 5168),
    "PASCAL-S": SaliencyLayout("PASCAL-S/datasets/imgs/pascal", "PASCAL-S/datasets/masks/pascal", 850, grey=True),
}


def pair_files(images: Path, masks: Path) -> tuple[list[str], list[str], list[str]]:
    """Match the images (``.jpg``, ``.jpeg``) and masks (``.png``) of two folders by name.

    Args:
        images (Path): Folder of the images.
        masks (Path): Folder of the masks.

    Returns:
        tuple[list[str], list[str], list[str]]: Names of pairs, of images without a mask, and of masks without an image.
        Each list is sorted, and the names have no suffix.

    Raises:
        UserError: If a folder does not exist.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(
                f"saliency data: no folder {folder}. tools/dataset_converters/saliency.py lists the expected folders"
            )
    jpegs = {file.stem for file in images.iterdir() if file.suffix.lower() in (".jpg", ".jpeg")}
    pngs = {file.stem for file in masks.glob("*.png")}
    return sorted(jpegs & pngs), sorted(jpegs - pngs), sorted(pngs - jpegs)


def read_mask(file: str | Path) -> np.ndarray:
    """Read a mask.

    Args:
        file (str | Path): An 8-bit image file. Color masks are reduced to the largest of their three channels.

    Returns:
        np.ndarray: Gray values (H, W, uint8).

    Raises:
        UserError: If the file is missing, is not a readable image, or is not 8 bits deep.
    """
    if not Path(file).is_file():
        raise UserError(f"mask {file} does not exist")
    mask = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED) if Path(file).stat().st_size else None
    if mask is None:
        raise UserError(f"mask {file} is not a readable image ({Path(file).stat().st_size} bytes)")
    if mask.dtype != np.uint8:
        raise UserError(f"mask {file} has 16-bit values. Write masks in 8 bits, with the values 0 and 255")
    return mask if mask.ndim == 2 else mask[..., :3].max(-1)


def find_mask_problem(mask: np.ndarray, file: str | Path, size: tuple[int, int], grey: bool = False) -> str | None:
    """Return the first problem of a mask, or None.

    Args:
        mask (np.ndarray): Gray values (H, W, uint8).
        file (str | Path): File of the mask. It is named in the message.
        size (tuple[int, int]): Height and width of the image.
        grey (bool): Whether values between black and white are allowed. Defaults to False.

    Returns:
        str | None: A message without a period at its end.
    """
    if mask.shape != tuple(size):
        (mask_height, mask_width), (height, width) = mask.shape, size
        return f"mask {file} is {mask_width}x{mask_height} pixels, its image {width}x{height}"
    if not mask.any():
        return f"mask {file} is empty: no pixel is salient"
    if mask.max() < 128:
        return f"mask {file} has no value above {mask.max()}: a label map? Write masks with the values 0 and 255"
    share = np.mean((mask > 10) & (mask < 245))
    if share > MAX_GREY_SHARE and not grey:
        return (
            f"mask {file} is not binary: {share:.0%} of its pixels are neither black nor white. If the masks of this "
            "data set are meant to have shades, set grey=True"
        )
    return None
