"""Load the paper's tables, compare their rows with models and runs of this repository, and format them as Markdown."""

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path

import yaml
from mmengine.config import Config

from van_mm.analysis.complexity import count_complexity
from van_mm.apis.backbone_swap import swap_backbone
from van_mm.apis.build import get_image_size
from van_mm.apis.configs import get_experiment_config, get_run_name
from van_mm.models.backbones.van import format_arch

CONFIG_GROUPS = {"mmpretrain": "cls", "mmdet": "det", "mmseg": "seg", "mmpose": "pose"}
PAPER_INPUT_SIZES = {"mmdet": (800, 1280), "mmseg": (512, 512)}  # height and width for the FLOPs of tables 11 and 12
FLOPS_TOLERANCE = 0.02  # relative; our choice, because FLOP counters differ in the operators that they count


class DecimalLoader(yaml.SafeLoader):
    """A YAML loader that reads decimal numbers as ``Decimal``, so that 0.90 keeps its last digit."""


DecimalLoader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: Decimal(loader.construct_scalar(node)))


@cache
def load_paper() -> dict:
    """Return the content of ``paper.yml``. Decimal numbers are ``Decimal``.

    Returns:
        dict: ``tables`` by number, or by name if they are of LKA's relatives; ``comparators`` (results of other
        backbones); and ``recipes`` (training settings).

    Example:
        >>> load_paper()["tables"][12]["rows"][6]["mIoU"]
        Decimal('50.1')
    """
    return yaml.load((Path(__file__).parent / "paper.yml").read_text(), DecimalLoader)


def equals_printed(count: float, printed: Decimal | int, unit: float) -> bool:
    """Return whether ``count / unit``, rounded to the decimals of ``printed``, equals ``printed``."""
    return abs(Decimal(count) / Decimal(unit) - printed) <= half_last_digit(printed)


def half_last_digit(printed: Decimal | int) -> Decimal:
    """Return half a unit of the last printed digit: 0.005 for 0.90."""
    return Decimal(5).scaleb(Decimal(printed).as_tuple().exponent - 1)


def count_lka_parameters(channels: int, kernel_size: int = 21, dilation: int = 3) -> int:
    """Return P(K, d) of equation 3, the parameters of LKA's three convolutions without biases.

    Args:
        channels (int): Number of channels C.
        kernel_size (int): Kernel size K of the decomposed convolution. Defaults to 21.
        dilation (int): Dilation d. Defaults to 3.
    """
    return channels * (math.ceil(kernel_size / dilation) ** 2 + (2 * dilation - 1) ** 2 + channels)


def count_convolution_parameters(channels: int, kernel_size: int) -> dict[str, int]:
    """Return the columns of table 2, the parameters of a K x K convolution and of its decompositions, without biases.

    Returns:
        dict[str, int]: ``standard``, ``mobilenet`` (a depth-wise and a 1x1 convolution) and ``lka``.
    """
    area = kernel_size**2
    return dict(
        standard=area * channels**2,
        mobilenet=area * channels + channels**2,
        lka=count_lka_parameters(channels, kernel_size),
    )


def check_row(table: dict, row: dict, work_dirs: str | Path = "work_dirs") -> dict:
    """Compare a row of the paper with the model that its config builds, and with the newest run of the config.

    Args:
        table (dict): A table of ``load_paper()["tables"]``.
        row (dict): A row of the table.
        work_dirs (str | Path): Folder of the runs. Defaults to 'work_dirs'.

    Returns:
        dict: ``here`` has the values of this repository by column: ``params`` (millions) and ``flops`` (1e9) counted on
        the model, and the metrics of the run. ``wrong`` lists the counted columns that disagree with the paper.
    """
    if "kernel_size" in table:  # table 2
        here = count_convolution_parameters(row["channels"], table["kernel_size"])
        return dict(here=here, wrong=[column for column in here if here[column] != row[column]])
    if "config" not in row:
        return dict(here={}, wrong=[])
    wants_flops = "flops" in [*row, *table.get("counts", ())]
    size = tuple(row.get("input") or table["input"]) if wants_flops else None
    params, flops = count_config_complexity(row["config"], row.get("backbone"), size)
    here, wrong = {"params": params / 1e6}, []
    if "params" in row and not equals_printed(params, row["params"], 1e6):
        wrong.append("params")
    if flops is not None:
        here["flops"] = flops / 1e9
    if "flops" in row:
        close = abs(Decimal(here["flops"]) / row["flops"] - 1) <= Decimal(FLOPS_TOLERANCE)
        if not close and not equals_printed(flops, row["flops"], 1e9):
            wrong.append("flops")
    return dict(here=here | find_measured_metrics(row["config"], table, work_dirs, row.get("backbone")), wrong=wrong)


get_cached_config = cache(get_experiment_config)  # several tables have rows of the same config


@cache
def get_swapped_config(config: str, backbone: str) -> tuple[Config, bool]:
    """Return a config whose backbone is replaced by a VAN, and whether the backbone changed."""
    cfg = get_experiment_config(config)
    return cfg, bool(swap_backbone(cfg, backbone))


@cache
def count_config_complexity(config: str, backbone: str | None, size: tuple[int, int] | None) -> tuple[int, int | None]:
    """Return the parameters and multiply-adds of a config, optionally with a VAN as its backbone."""
    return count_complexity(get_swapped_config(config, backbone)[0] if backbone else get_cached_config(config), size)


def find_measured_metrics(
    config: str, table: dict, work_dirs: str | Path, backbone: str | None = None
) -> dict[str, float]:
    """Return the metrics of the newest evaluation in a config's work dir, by column, in the paper's units.

    Evaluations are the validations that training logs to ``scalars.json`` and the results that testing writes. The
    result is empty if there is no evaluation.

    Args:
        config (str): Name of the config.
        table (dict): Its ``metrics`` map a column to the key of the metric in the logs and a factor.
        work_dirs (str | Path): Folder of the runs.
        backbone (str, optional): Size of the VAN that replaced the config's backbone in the run.
    """
    folder = Path(work_dirs, get_run_name(config, backbone))
    files = sorted(folder.glob("*/*.json")) + sorted(folder.glob("*/vis_data/scalars.json"))
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        for line in reversed(file.read_text().splitlines()):
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue  # the file is no log of scalars, or its last line is incomplete
            metrics = {
                column: factor * values[key]
                for column, (key, factor) in table.get("metrics", {}).items()
                if key in values
            }
            if metrics:
                return metrics
    return {}


def make_config_table(configs: Sequence[str], backbone: str | None, size: tuple[int, int] | None = None) -> dict:
    """Return a table of any configs, in the format of ``load_paper()["tables"]`` but without results of the paper.

    Args:
        configs (Sequence[str]): Names of configs of this suite or of upstream codebases.
        backbone (str, optional): Size of a VAN. Each config gets a second row with this VAN as its backbone.
        size (tuple[int, int], optional): Height and width of the image that FLOPs are counted for. Defaults to the
            paper's size for detectors and segmentors, and to the config's own otherwise.
    """
    rows, metrics = [], {}
    for config in configs:
        cfg = get_cached_config(config)
        scope = cfg.default_scope
        row = dict(row=config, config=config, input=size or PAPER_INPUT_SIZES.get(scope) or get_image_size(cfg))
        rows.append(row)
        if backbone and get_swapped_config(config, backbone)[1]:
            rows.append(dict(row, row=f"{config}, {format_arch(backbone)}", backbone=backbone))
        for table in load_paper()["tables"].values():
            if table.get("group") == CONFIG_GROUPS[scope]:
                keys = [key for key, _ in metrics.values()]
                metrics |= {name: value for name, value in table["metrics"].items() if value[0] not in keys}
    return dict(
        title="Configs as given, and with VAN as the backbone",
        rows=rows,
        metrics=metrics,
        counts=["params", "flops"],
    )


COLUMN_LABELS = {"params": "Params (M)", "flops": "FLOPs (G)"}


def get_imagenet_top1() -> dict[str, float]:
    """Return ImageNet-1K top-1 accuracies in percent, from table 7.

    Returns:
        dict[str, float]: By name of the backbone in lower case, such as ``'b2'`` or ``'swin-t'``.
    """
    paper = load_paper()
    van = {row["row"].removeprefix("VAN-").lower(): row["top1"] for row in paper["tables"][7]["rows"]}
    comparators = {name.lower(): value for name, value in paper["comparators"]["imagenet1k"].items()}
    return {name: float(value) for name, value in (comparators | van).items()}


def get_columns(table: dict) -> list[str]:
    """Return the names of a table's numeric columns in the printed order, after its ``counts`` (not in the paper)."""
    columns = dict.fromkeys(table.get("counts", ()))
    for row in table["rows"]:
        columns |= {column: None for column, value in row.items() if isinstance(value, (int, Decimal))}
    return [column for column in columns if column != "channels"]


def format_cell(row: dict, check: dict, column: str) -> str:
    """Return the paper's value and the value here, ``4.1 / 4.11``. A missing value is ``-``."""
    printed, here = row.get(column), check["here"].get(column)
    if here is None:
        return "" if printed is None else f"{printed} / -"
    digits = (
        0 if isinstance(here, int) else max(1, -Decimal(printed or 0).as_tuple().exponent) + (column in COLUMN_LABELS)
    )
    mark = " !" if column in check["wrong"] else ""
    return f"{'-' if printed is None else printed} / {here:.{digits}f}{mark}"


def format_table(number: int | str, table: dict, checks: list[dict], configs: str = "../configs") -> str:
    """Return a table as Markdown with cells ``paper / here``.

    Args:
        number (int | str): Number of the table in the paper, or 0 or a name for a table that is not in the paper.
        table (dict): A table of ``load_paper()["tables"]``.
        checks (list[dict]): The results of :func:`check_row` for its rows.
        configs (str): Folder that links to configs start with. Defaults to '../configs'.
    """
    names = get_columns(table)
    lines = [
        f"### Table {number}: {table['title']}" if isinstance(number, int) and number else f"### {table['title']}",
        "",
    ]
    lines += [
        "| | " + " | ".join(COLUMN_LABELS.get(name, name) for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    notes = []
    for row, check in zip(table["rows"], checks, strict=True):
        in_suite = "::" not in row.get("config", "::")
        label = f"[{row['row']}]({configs}/{row['config']}.py)" if in_suite else row["row"]
        lines.append(f"| {label} | " + " | ".join(format_cell(row, check, name) for name in names) + " |")
        notes += [
            f"! {row['row']}, {COLUMN_LABELS.get(column, column)}: {why}"
            for column, why in row.get("known", {}).items()
        ]
    return "\n".join([*lines, *([""] if notes else []), *notes])
