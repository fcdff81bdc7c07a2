"""Transforms that change images and their segmentation maps."""

import mmcv
import numpy as np
import pytest

from van_mm.datasets.transforms.processing import RandomMarginCrop
from van_mm.registry import TRANSFORMS


def results(height=384, width=384):
    """An image whose pixels hold their row and column, with the column's parity as segmentation map."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows], 2).astype(np.float32)
    return dict(img=image, gt_seg_map=(columns % 2).astype(np.uint8), seg_fields=["gt_seg_map"])


def test_margins_are_symmetric_and_drawn_from_0_to_12():
    np.random.seed(0)
    crop = RandomMarginCrop()
    drawn = [crop.draw_margins(384, 384) for _ in range(4000)]
    cropped = [margins for margins in drawn if margins is not None]
    assert 0.47 < len(cropped) / len(drawn) < 0.53
    assert {y for y, _ in cropped} == {x for _, x in cropped} == set(range(13))
    assert any(y != x for y, x in cropped)
    always = RandomMarginCrop(prob=1)
    assert {always.draw_margins(128, 64) for _ in range(500)} == {(y, x) for y in range(5) for x in range(3)}


def test_image_and_map_lose_the_same_margins():
    crop = RandomMarginCrop(prob=1)
    crop.draw_margins = lambda height, width: (3, 11)
    before = results()
    after = crop(results())
    assert after["img"].shape == (384, 384, 3) and after["gt_seg_map"].shape == (384, 384)
    assert np.array_equal(after["img"], mmcv.imresize(before["img"][3:-3, 11:-11], (384, 384)))
    nearest = mmcv.imresize(before["gt_seg_map"][3:-3, 11:-11], (384, 384), interpolation="nearest")
    assert np.array_equal(after["gt_seg_map"], nearest) and set(np.unique(nearest)) == {0, 1}
    # The first and the last pixels that remain are as far from the two borders.
    assert after["img"][0, 0, :2] == pytest.approx([3, 11]) and after["img"][-1, -1, :2] == pytest.approx([380, 372])


@pytest.mark.parametrize("crop", [RandomMarginCrop(prob=0), RandomMarginCrop(prob=1, max_margin=0)])
def test_no_crop(crop):
    before, after = results(40, 60), crop(results(40, 60))
    assert np.array_equal(after["img"], before["img"]) and np.array_equal(after["gt_seg_map"], before["gt_seg_map"])


def test_images_without_a_map():
    assert RandomMarginCrop(prob=1)(dict(img=np.zeros((64, 96, 3), np.uint8)))["img"].shape == (64, 96, 3)


def test_arguments():
    crop = TRANSFORMS.build(dict(type="van_mm.RandomMarginCrop", prob=0.3, max_margin=0.1))
    assert repr(crop) == "RandomMarginCrop(prob=0.3, max_margin=0.1)"
    with pytest.raises(ValueError, match="prob must be in"):
        RandomMarginCrop(prob=1.5)
    with pytest.raises(ValueError, match="two margins would leave no image"):
        RandomMarginCrop(max_margin=0.5)
