"""Drawings on tiny images are enlarged with everything on them, so that lines and text are legible."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

import van_mm
from tests.apis.test_inferencer import TASKS, checkpoints  # noqa: F401  a fixture
from van_mm.visualization.model_inputs import MIN_DRAWN_SIDE, enlarge_small_image


def test_sample_is_enlarged():
    mask = np.zeros((1, 16, 20), bool)
    mask[0, 2:6, 3:9] = True
    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=HorizontalBoxes(torch.tensor([[3.0, 2, 9, 6]])), masks=BitmapMasks(mask.astype(np.uint8), 16, 20)
        ),
        pred_instances=InstanceData(
            bboxes=torch.tensor([[3.0, 2, 9, 6]]), masks=torch.from_numpy(mask), keypoints=np.array([[[4.0, 5]]])
        ),
        pred_sem_seg=PixelData(data=torch.arange(320).reshape(1, 16, 20)),
    )
    image = np.zeros((16, 20, 3), np.uint8)
    large, enlarged = enlarge_small_image(image, sample)
    factor = MIN_DRAWN_SIDE // 16
    assert large.shape == (16 * factor, 20 * factor, 3) and large.dtype == np.uint8
    for instances in (enlarged.gt_instances, enlarged.pred_instances):
        assert instances.bboxes.tolist() == [[3.0 * factor, 2 * factor, 9 * factor, 6 * factor]]
    assert enlarged.gt_instances.masks.masks.sum() == enlarged.pred_instances.masks.sum() == 24 * factor**2
    assert enlarged.pred_instances.keypoints.tolist() == [[[4.0 * factor, 5 * factor]]]
    assert enlarged.pred_sem_seg.data.shape == (1, 16 * factor, 20 * factor)
    assert enlarged.pred_sem_seg.data[0, -1, -1] == 319
    assert sample.pred_instances.bboxes.tolist() == [[3.0, 2, 9, 6]]  # the original stays
    assert enlarge_small_image(np.zeros((480, 640, 3), np.uint8), sample)[1] is sample


@pytest.mark.parametrize("task", ["detection", "panoptic", "saliency", "pose"])
def test_results_are_drawn_large(task, checkpoints):  # noqa: F811
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    result = van_mm.load(checkpoints(task), device="cpu", score_thr=0.0)(image)
    assert min(result.draw().shape[:2]) >= 350 and result.image.shape == (24, 32, 3)
    assert TASKS[task][2] in result.to_dict() and result.to_dict()["size"] == [32, 24]
