"""The paper's tables as data, and what can be said about a row of them without training.

``paper.yml`` holds the figures; :func:`check_row` sets the built model's beside them.
"""

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path

import yaml
from mmengine.config import Config

from van_mm.analysis import complexity
from van_mm.configs import get_experiment, run_name
from van_mm.swap import swap_backbone
from van_mm.trial import image_size

GROUP_OF = {"mmpretrain": "cls", "mmdet": "det", "mmseg": "seg", "mmpose": "pose"}
INPUTS = {"mmdet": (800, 1280), "mmseg": (512, 512)}  # height and width in tables 11 and 12
FLOPS_TOLERANCE = 0.02  # relative; counters differ in what they count beside multiply-adds


class _Loader(yaml.SafeLoader):
    """Reads a decimal number as it is printed: 0.90 keeps its second digit."""


_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: Decimal(loader.construct_scalar(node)))


@cache
def load_paper() -> dict:
    """``paper.yml``: ``tables`` by number, ``comparators``, ``recipes``; decimal numbers are ``Decimal``."""
    return yaml.load((Path(__file__).parent / "paper.yml").read_text(), _Loader)


def equal_as_printed(count: float, printed: Decimal | int, unit: float) -> bool:
    """Whether ``count / unit`` rounds to the printed number, at its number of decimals."""
    return abs(Decimal(count) / Decimal(unit) - printed) <= half_a_digit(printed)


def half_a_digit(printed: Decimal | int) -> Decimal:
    """Half of the last printed decimal place."""
    return Decimal(5).scaleb(Decimal(printed).as_tuple().exponent - 1)


def lka_parameters(channels: int, kernel_size: int = 21, dilation: int = 3) -> int:
    """P(K, d) of equation 3: parameters of LKA's three convolutions, biases left out.

    Args:
        channels (int): C.
        kernel_size (int): K. Defaults to 21.
        dilation (int): d. Defaults to 3.
    """
    return channels * (math.ceil(kernel_size / dilation) ** 2 + (2 * dilation - 1) ** 2 + channels)


def convolution_parameters(channels: int, kernel_size: int) -> dict[str, int]:
    """Table 2's columns: a standard K x K convolution, MobileNet's decomposition (depth-wise and 1x1), LKA's."""
    area = kernel_size**2
    return dict(
        standard=area * channels**2,
        mobilenet=area * channels + channels**2,
        lka=lka_parameters(channels, kernel_size),
    )


def check_row(table: dict, row: dict, work_dirs: str | Path = "work_dirs") -> dict:
    """Set a row of the paper beside what this machine has.

    Args:
        table (dict): Entry of ``load_paper()['tables']``.
        row (dict): One of its rows.
        work_dirs (str | Path): Where runs of the configs are looked for, under their own names.

    Returns:
        dict: ``here``, the row's columns as counted from the built model (``params`` in millions, ``flops`` in 1e9)
        or measured in a run, and ``wrong``, the counted columns that disagree with the print.
    """
    if "kernel_size" in table:  # table 2
        here = convolution_parameters(row["channels"], table["kernel_size"])
        return dict(here=here, wrong=[column for column in here if here[column] != row[column]])
    if "config" not in row:
        return dict(here={}, wrong=[])
    wants_flops = "flops" in [*row, *table.get("counts", ())]
    size = tuple(row.get("input") or table["input"]) if wants_flops else None
    params, flops = counted(row["config"], row.get("backbone"), size)
    here, wrong = {"params": params / 1e6}, []
    if "params" in row and not equal_as_printed(params, row["params"], 1e6):
        wrong.append("params")
    if flops is not None:
        here["flops"] = flops / 1e9
    if "flops" in row:
        close = abs(Decimal(here["flops"]) / row["flops"] - 1) <= Decimal(FLOPS_TOLERANCE)
        if not close and not equal_as_printed(flops, row["flops"], 1e9):
            wrong.append("flops")
    return dict(here=here | measured(row["config"], table, work_dirs, row.get("backbone")), wrong=wrong)


config_of = cache(get_experiment)  # several tables share one


@cache
def swapped(config: str, backbone: str) -> tuple[Config, bool]:
    """A config by its name with VAN of a size in place of its backbone, and whether that is another one."""
    cfg = get_experiment(config)
    return cfg, bool(swap_backbone(cfg, backbone))


@cache
def counted(config: str, backbone: str | None, size: tuple[int, int] | None) -> tuple[int, int | None]:
    """:func:`van_mm.analysis.complexity` of a config by its name, with VAN in place of its backbone if asked for."""
    return complexity(swapped(config, backbone)[0] if backbone else config_of(config), size)


def measured(config: str, table: dict, work_dirs: str | Path, backbone: str | None = None) -> dict[str, float]:
    """A table's metrics as the newest evaluation below ``work_dirs/<config>/`` has them, in the paper's units.

    Both what training writes (``scalars.json`` of a run, its last validation) and what testing writes count.
    """
    folder = Path(work_dirs, run_name(config, backbone))
    files = sorted(folder.glob("*/*.json")) + sorted(folder.glob("*/vis_data/scalars.json"))
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        for line in reversed(file.read_text().splitlines()):
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue  # not a log of scalars, or its last line was cut off
            found = {
                column: factor * values[key]
                for column, (key, factor) in table.get("metrics", {}).items()
                if key in values
            }
            if found:
                return found
    return {}


def own_table(configs: Sequence[str], backbone: str | None, size: tuple[int, int] | None = None) -> dict:
    """A table in the form of ``load_paper()['tables']`` of configs that the paper does not have, without its figures.

    Args:
        configs (Sequence[str]): Names, of the suite or upstream.
        backbone (str, optional): Add a row for each config with VAN of this size in place of its backbone.
        size (tuple[int, int], optional): Height and width that FLOPs are counted at. By default the paper's for
            detectors and segmentors, else the config's own.
    """
    rows, metrics = [], {}
    for config in configs:
        cfg = config_of(config)
        scope = cfg.default_scope
        row = dict(row=config, config=config, input=size or INPUTS.get(scope) or image_size(cfg))
        rows.append(row)
        if backbone and swapped(config, backbone)[1]:
            rows.append(dict(row, row=f"{config}, VAN-{backbone.upper()}", backbone=backbone))
        for table in load_paper()["tables"].values():
            if table.get("group") == GROUP_OF[scope]:
                known = [key for key, _ in metrics.values()]
                metrics |= {name: value for name, value in table["metrics"].items() if value[0] not in known}
    return dict(title="Configs as they ship, and with VAN", rows=rows, metrics=metrics, counts=["params", "flops"])


LABELS = {"params": "Params (M)", "flops": "FLOPs (G)"}


def imagenet_top1() -> dict[str, float]:
    """ImageNet-1K top-1 in percent by backbone, in lower case: table 7's VAN (``b2``) and what it sets beside it."""
    paper = load_paper()
    van = {row["row"].removeprefix("VAN-").lower(): row["top1"] for row in paper["tables"][7]["rows"]}
    others = {name.lower(): value for name, value in paper["comparators"]["imagenet1k"].items()}
    return {name: float(value) for name, value in (others | van).items()}


def columns(table: dict) -> list[str]:
    """Names of a table's columns of numbers, in the order of print, after its ``counts``, which are ours alone."""
    found = dict.fromkeys(table.get("counts", ()))
    for row in table["rows"]:
        found |= {column: None for column, value in row.items() if isinstance(value, (int, Decimal))}
    return [column for column in found if column != "channels"]


def cell(row: dict, check: dict, column: str) -> str:
    """The paper's figure and ours, ``4.1 / 4.11``, with ``-`` for one that there is not."""
    printed, here = row.get(column), check["here"].get(column)
    if here is None:
        return "" if printed is None else f"{printed} / -"
    digits = 0 if isinstance(here, int) else max(1, -Decimal(printed or 0).as_tuple().exponent) + (column in LABELS)
    ours = f"{here:.{digits}f}"
    mark = " !" if column in check["wrong"] else ""
    return f"{'-' if printed is None else printed} / {ours}{mark}"


def markdown(number: int, table: dict, checks: list[dict], configs: str = "../configs") -> str:
    """A table as Markdown, every cell ``paper / here``.

    Args:
        number (int): The table's in the paper; 0 if it is not there.
        table (dict): Entry of ``load_paper()['tables']``.
        checks (list[dict]): Of its rows, from :func:`check_row`.
        configs (str): Where links to configs lead. Defaults to '../configs'.
    """
    names = columns(table)
    lines = [f"### Table {number}: {table['title']}" if number else f"### {table['title']}", ""]
    lines += ["| | " + " | ".join(LABELS.get(name, name) for name in names) + " |", "| --- |" + " ---: |" * len(names)]
    notes = []
    for row, check in zip(table["rows"], checks, strict=True):
        ours = "::" not in row.get("config", "::")
        label = f"[{row['row']}]({configs}/{row['config']}.py)" if ours else row["row"]
        lines.append(f"| {label} | " + " | ".join(cell(row, check, name) for name in names) + " |")
        notes += [
            f"! {row['row']}, {LABELS.get(column, column)}: {why}" for column, why in row.get("known", {}).items()
        ]
    return "\n".join([*lines, *([""] if notes else []), *notes])
