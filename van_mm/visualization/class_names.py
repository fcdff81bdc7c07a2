"""The names of the classes that a checkpoint was trained with."""

from mmengine.logging import print_log

NAMES = {"classes": "class names", "keypoint_id2name": "keypoint names"}


def get_trained_meta(checkpoint: dict) -> dict:
    """Return the meta information of the data set that a checkpoint was trained on, with names in lower case.

    Args:
        checkpoint (dict): As read from a file. Files of MMLab's older versions have ``CLASSES`` and ``PALETTE``.

    Returns:
        dict: Empty if the checkpoint has none.
    """
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    trained = meta.get("dataset_meta") or {key: meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
    return {key.lower(): value for key, value in trained.items()} if isinstance(trained, dict) else {}


def use_trained_names(meta: dict, trained: dict, report: bool = True) -> dict:
    """Return the meta information for the predictions of a trained model.

    Args:
        meta (dict): Of the config's data set.
        trained (dict): Of the data set that the model was trained on, from :func:`get_trained_meta`.
        report (bool): Print a warning if the names differ. Defaults to True.

    Returns:
        dict: ``meta`` if the names of classes and keypoints are the same or the checkpoint has none. Otherwise its
        entries are replaced by those of ``trained``, because the model's outputs are in their order.
    """
    for key, what in NAMES.items():
        names, trained_names = list_names(meta.get(key)), list_names(trained.get(key))
        if not trained_names or names == trained_names:
            continue
        if names and report:
            print_log(
                f"the config's {what} ({format_names(names)}) are not those that the checkpoint was trained with "
                f"({format_names(trained_names)}). The checkpoint's are used. Change metainfo in the config if they "
                "are wrong",
                "current",
                level=30,
            )
        return meta | trained
    return meta


def list_names(names: object) -> list[str]:
    """Return names as a list, from a sequence or from a dict of names by number; an empty list for anything else."""
    if isinstance(names, dict):
        names = [names[number] for number in sorted(names)]
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []


def format_names(names: list[str]) -> str:
    """Return the number of names and the first five."""
    return f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
