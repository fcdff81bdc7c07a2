"""A pickle file of a test holds the predictions, and not what they were computed from."""

import pickle

import numpy as np
import pytest
import torch

from van_mm.evaluation.metrics import DumpPredictions


def dump(sample: dict, tmp_path) -> tuple[dict, int]:
    """Return the sample as it is read from the file, and the size of the file."""
    file = tmp_path / "predictions.pkl"
    metric = DumpPredictions(str(file))
    metric.process({}, [sample])
    metric.evaluate(1)
    (read,) = pickle.loads(file.read_bytes())
    return read, file.stat().st_size


@pytest.mark.parametrize(("top", "kind"), [(149, np.uint8), (255, np.uint8), (999, np.uint16)])
def test_label_maps(top, kind, tmp_path):
    labels = torch.randint(0, top, (1, 64, 64))
    labels[0, 0, 0] = top
    logits = dict(data=torch.rand(150, 64, 64))
    sample = dict(img_path="a.jpg", pred_sem_seg=dict(data=labels), gt_sem_seg=dict(data=labels), seg_logits=logits)
    read, size = dump(sample, tmp_path)
    assert read.keys() == {"img_path", "pred_sem_seg"} and size < 2 * 64 * 64 * kind().nbytes
    assert read["pred_sem_seg"]["data"].dtype == kind and np.array_equal(read["pred_sem_seg"]["data"], labels)
    assert sample.keys() == {"img_path", "pred_sem_seg", "gt_sem_seg", "seg_logits"}  # other metrics read it too


def test_saliency_map(tmp_path):
    """The map of a saliency model is its prediction."""
    saliency = torch.rand(1, 8, 8)
    read, _ = dump(dict(seg_logits=dict(data=saliency), pred_sem_seg=dict(data=saliency > 0.5)), tmp_path)
    assert torch.equal(read["seg_logits"]["data"], saliency)


def test_panoptic_and_instances(tmp_path):
    pytest.importorskip("mmdet")
    from mmdet.structures.mask import encode_mask_results

    masks, ids = torch.rand(2, 8, 8) > 0.5, torch.tensor([[[132, 3001]]])
    instances = dict(scores=torch.tensor([0.5, 0.25]), masks=masks)
    sample = dict(pred_panoptic_seg=dict(sem_seg=ids), pred_instances=instances, gt_instances={}, ignored_instances={})
    read, _ = dump(sample, tmp_path)
    assert read.keys() == {"pred_panoptic_seg", "pred_instances"} and torch.is_tensor(instances["masks"])
    assert np.array_equal(read["pred_panoptic_seg"]["sem_seg"], ids)
    assert read["pred_panoptic_seg"]["sem_seg"].dtype == np.uint16
    assert read["pred_instances"]["masks"] == encode_mask_results(masks.numpy())
    assert torch.equal(read["pred_instances"]["scores"], instances["scores"])
