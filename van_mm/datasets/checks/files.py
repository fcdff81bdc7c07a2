"""Check that the folders and annotation files of data sets exist."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from van_mm.datasets.saliency_layouts import SALIENCY_LAYOUTS
from van_mm.utils.config_walk import iter_dicts
from van_mm.utils.errors import UserError


def find_dataset_cfgs(cfg: Config, splits: tuple[str, ...]) -> list[ConfigDict]:
    """Return the configs of the data sets of these splits, without wrappers such as ``RepeatDataset``.

    Args:
        cfg (Config): Config of an experiment.
        splits (tuple[str]): Any of ``'train'``, ``'val'`` and ``'test'``.

    Returns:
        list[ConfigDict]: Every dict of the data loaders' data sets that has a ``data_root``.
    """
    loaders = [cfg.get(f"{split}_dataloader") for split in splits]
    return [node for loader in loaders if loader for node in iter_dicts(loader.dataset) if "data_root" in node]


def check_data_files(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that every folder and annotation file of the data sets exists.

    Args:
        cfg (Config): Config of an experiment.
        splits (tuple[str]): The splits to check, any of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: If a folder or file is missing. The message shows the expected layout.
    """
    expected: dict[Path, None] = {}
    for dataset in find_dataset_cfgs(cfg, splits):
        root = Path(dataset.data_root)
        prefixes = dataset.get("data_prefix") or dataset.get("split") or ""
        if dataset.type.endswith("CUB"):
            prefixes = "images"
        if dataset.type.endswith("SaliencyDataset"):
            saliency_layout = SALIENCY_LAYOUTS.get(dataset.subset)
            prefixes = dataset.get("data_prefix") or (saliency_layout.prefixes if saliency_layout else "")
        for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
            expected[root / prefix] = None
        for file in (dataset.get("ann_file"), dataset.get("bbox_file")):
            if file:
                expected[Path(file) if str(file).startswith(str(root)) else root / file] = None
    missing = [path for path in expected if not path.exists()]
    if missing:
        layout = "\n".join(f"  {path}{'   (missing)' if path in missing else ''}" for path in expected)
        raise UserError(
            f"the data set is not complete: {missing[0]} does not exist. This config expects, below "
            f"{Path.cwd()}:\n{layout}\nMove or link the data there, set another data_root with --cfg-options, or try "
            "--demo, which needs no download."
        )
