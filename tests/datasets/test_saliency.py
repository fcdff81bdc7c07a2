"""SaliencyDataset loads images and masks, and refuses malformed files."""

import cv2
import numpy as np
import pytest

from van_mm.datasets.saliency import SaliencyDataset
from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS, find_mask_problem
from van_mm.datasets.transforms.loading import LoadSaliencyMask
from van_mm.utils.errors import UserError


@pytest.fixture
def root(tmp_path):
    """A DUTS-TE folder with two images of 30x20 pixels. The upper half of each image is salient."""
    layout = SALIENCY_LAYOUTS["DUTS-TE"]
    for folder in (layout.images, layout.masks):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / layout.images / f"{name}.jpg"), np.zeros((20, 30, 3), np.uint8))
        write_mask(tmp_path, name, np.repeat(np.uint8([255, 0]), 10)[:, None].repeat(30, 1))
    return tmp_path


def write_mask(root, name, mask):
    cv2.imwrite(str(root / SALIENCY_LAYOUTS["DUTS-TE"].masks / f"{name}.png"), mask)


def load(root):
    pipeline = [dict(type="LoadImageFromFile"), LoadSaliencyMask()]
    return SaliencyDataset("DUTS-TE", data_root=str(root), pipeline=pipeline)[0]


def test_mask_is_binary(root):
    results = load(root)
    assert results["subset"] == "DUTS-TE" and results["gt_seg_map"].dtype == np.uint8
    assert np.array_equal(results["gt_seg_map"], np.repeat([1, 0], 10)[:, None].repeat(30, 1))


def test_color_masks_and_soft_edges(root):
    mask = np.zeros((20, 30, 4), np.uint8)  # some copies of the dataset have RGBA masks
    mask[:10, :, :3], mask[..., 3] = 255, 255
    mask[9, :20, :3] = 129
    write_mask(root, "a", mask)
    assert load(root)["gt_seg_map"].sum() == 300


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((20, 30), 100, np.uint8) + np.arange(30, dtype=np.uint8) * 3, "not binary: 100% of its pixels"),
        (np.full((10, 30), 255, np.uint8), "a.png is 30x10 pixels, its image 30x20"),
        (np.zeros((20, 30), np.uint8), "a.png is empty"),
        (np.ones((20, 30), np.uint8), "no value above 1: a label map"),
        (np.full((20, 30), 65535, np.uint16), "16-bit"),
    ],
)
def test_bad_masks(mask, message, root):
    write_mask(root, "a", mask)
    with pytest.raises(UserError, match=message):
        load(root)


def test_missing_and_broken_files(root):
    masks = root / SALIENCY_LAYOUTS["DUTS-TE"].masks
    (masks / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.png is not a readable image \(0 bytes\)"):
        load(root)
    (masks / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 images of .* have no mask in .*\['b'\]"):
        load(root)
    with pytest.raises(UserError, match="no folder"):
        load(root / "elsewhere")
    with pytest.raises(UserError, match="unknown saliency set 'SOD'"):
        SaliencyDataset("SOD", data_root=str(root))


def test_gray_masks_are_allowed_for_pascal_s():
    shades = np.arange(12, dtype=np.uint8).repeat(100).reshape(30, 40) * 21
    assert (
        "not binary" in find_mask_problem(shades, "m", (30, 40))
        and find_mask_problem(shades, "m", (30, 40), grey=True) is None
    )


def test_custom_dataset(root):
    dataset = SaliencyDataset("mine", data_root=str(root), data_prefix=SALIENCY_LAYOUTS["DUTS-TE"].prefixes)
    assert len(dataset) == 2 and dataset.get_data_info(1)["subset"] == "mine"
