"""Write the predictions of a test to a pickle file."""

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import DumpResults
from mmengine.evaluator.metric import _to_cpu
from torch import Tensor

from van_mm.registry import METRICS


@METRICS.register_module()
class DumpPredictions(DumpResults):
    """Write the predictions of segmentors and detectors to a pickle file, without what they were computed from.

    All predictions of a test are in memory at once, so they have to be small. The ground truth and the logits of
    several classes are left out, label maps are arrays of the smallest integers that hold their classes, and the masks
    of instances are run-length encoded. The map of a saliency model stays.

    Args:
        out_file_path (str): Path of the file, which ends with '.pkl' or '.pickle'.
        collect_device (str): Device for the results of other ranks, 'cpu' or 'gpu'. Defaults to 'cpu'.
        collect_dir (str, optional): Folder for the results of other ranks.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch."""
        for sample in data_samples:
            kept = {key: value for key, value in sample.items() if not key.startswith(("gt_", "ignored_"))}
            if "pred_sem_seg" in kept and len(sample.get("seg_logits", {}).get("data", ())) > 1:
                del kept["seg_logits"]
            kept = _to_cpu(kept)
            for key in ("pred_sem_seg", "pred_panoptic_seg"):
                if key in kept:
                    kept[key] = {name: shrink(value) for name, value in kept[key].items()}
            if "masks" in (instances := kept.get("pred_instances", {})):
                from mmdet.structures.mask import encode_mask_results

                kept["pred_instances"] = dict(instances, masks=encode_mask_results(instances["masks"].numpy()))
            self.results.append(kept)


def shrink(value):
    """Return an integer tensor as an array of the smallest integers that hold it, and any other value unchanged."""
    if not isinstance(value, Tensor) or value.is_floating_point() or not value.numel():
        return value
    kind = np.promote_types(np.min_scalar_type(int(value.min())), np.min_scalar_type(int(value.max())))
    return value.numpy().astype(kind)
