"""The figure by which the checkpoints of a run are compared."""

from mmengine.config import Config

from van_mm.utils.config_walk import find_inner_dataset, get_type_name, iter_dicts


def find_main_metric(cfg: Config) -> str:
    """Return the key of a config's main metric, for ``save_best`` and early stopping.

    mmengine's own choice, ``'auto'``, is the first figure of an evaluator: the pixel accuracy of a segmentor.

    Args:
        cfg (Config): An experiment.

    Returns:
        str: The key. Larger values are better. For a metric of another codebase, ``'auto'``.

    Example:
        >>> find_main_metric(van_mm.get_config("seg/upernet_van_b2"))
        'mIoU'
    """
    for node in iter_dicts(cfg.get("val_evaluator") or cfg.get("test_evaluator")):
        name = get_type_name(node)
        if name == "CocoMetric" and cfg.default_scope != "mmpose":
            kinds = node.get("metric", "bbox")
            kind = kinds if isinstance(kinds, str) else "segm" if "segm" in kinds else kinds[0]
            return f"{node.get('prefix') or 'coco'}/{kind}_mAP"
        if name == "SaliencyMetric":
            return f"{find_inner_dataset(cfg.val_dataloader.dataset).get('subset')}/F_max"
        if name in MAIN_METRICS:
            return MAIN_METRICS[name]
    return "auto"


MAIN_METRICS = {
    "Accuracy": "accuracy/top1",
    "CocoPanopticMetric": "coco_panoptic/PQ",
    "CocoMetric": "coco/AP",
    "IoUMetric": "mIoU",
}
