"""Render the files that repeat the paper's results: READMEs, metafiles, model-index.yml and docs/paper_tables.md."""

from pathlib import Path

import yaml

from van_mm.apis.configs import list_configs
from van_mm.checkpoints.io import MODEL_ZOO
from van_mm.checkpoints.loading import format_backbone
from van_mm.models.backbones.van import format_arch
from van_mm.paper.tables import check_row, format_table, get_cached_config, get_columns, load_paper
from van_mm.version import __version__

GROUP_TITLES = {
    "cls": "Image classification on ImageNet-1K, ImageNet-22K and CUB-200-2011, and the ablations",
    "det": "Object detection, instance and panoptic segmentation on COCO",
    "seg": "Semantic segmentation on ADE20K, and salient object detection",
    "pose": "Human pose estimation on COCO",
}
COMMAND = "tools/analysis/paper_tables.py"
LEGEND = (
    "Each cell is `paper / here`: the value that the paper prints, and the value of this repository. Parameters and\n"
    "FLOPs (multiply-adds) are counted on the model that the config builds. Metrics are `-` here;\n"
    f"`python {COMMAND}` shows the metrics of the runs below `work_dirs/`.\n"
    "`!` marks a count that disagrees with the paper."
)


def make_metafile(group: str, tables: dict, checks: dict) -> dict:
    """Return the content of ``configs/<group>/metafile.yml``.

    The metrics are the paper's. Parameters and FLOPs are counted on the models.

    Args:
        group (str): Folder of configs, a key of ``GROUP_TITLES``.
        tables (dict): ``load_paper()["tables"]``.
        checks (dict): For each table, the results of :func:`check_row` for its rows.
    """
    rows = {}
    for number, table in tables.items():
        if table.get("group") == group:
            for row, check in zip(table["rows"], checks[number], strict=True):
                if "config" in row:
                    rows.setdefault(row["config"], (number, table, row, check))
    models = []
    for config in list_configs(f"{group}/*"):
        cfg = get_cached_config(config)
        backbone = cfg.model.backbone
        meta = {"Architecture": "Visual Attention Network", "Size": format_arch(backbone.arch).removeprefix("VAN-")}
        if "type" in backbone.get("lka_cfg", {}):
            meta["Attention"] = backbone.lka_cfg.type
        length = cfg.train_cfg.get("max_epochs")
        meta |= {"Epochs": length} if length else {"Iterations": cfg.train_cfg.max_iters}
        model = {"Name": Path(config).name, "In Collection": "VAN", "Config": f"configs/{config}.py", "Metadata": meta}
        if config in rows:
            number, table, row, check = rows[config]
            meta["Parameters"] = round(check["here"]["params"] * 1e6)
            if "flops" in check["here"]:
                meta["FLOPs"] = round(check["here"]["flops"] * 1e9)
            metrics = {
                f"{name} (paper)": float(row[name])
                for name in get_columns(table)
                if name in row and name in table["metrics"]
            }
            if metrics:
                model["Results"] = [{"Task": table["task"], "Dataset": table["dataset"], "Metrics": metrics}]
                model["Paper Table"] = number
        weights = MODEL_ZOO.get(f"{cfg.model.backbone.arch}_in1k_cls")
        if weights and config == f"cls/van_{weights['arch']}_in1k":
            model["Weights"] = weights["url"]
        models.append(model)
    return {"Models": models}


def make_collection() -> dict:
    """Return the collection that contains all models."""
    return {
        "Name": "VAN",
        "Metadata": {"Architecture": ["Visual Attention Network"]},
        "Paper": {"URL": "https://arxiv.org/abs/2202.09741", "Title": "Visual Attention Network"},
        "README": "configs/cls/README.md",
        "Code": {"Version": f"v{__version__}"},
    }


def make_model_zoo(tables: dict, checks: dict) -> str:
    """Return the content of ``docs/model_zoo.md``: every entry of model_zoo.json."""
    counts = {
        row["config"]: check["here"]
        for number, table in tables.items()
        for row, check in zip(table["rows"], checks[number], strict=True)
        if "flops" in check["here"]
    }
    lines = [
        "# Published weights", "",
        "Every name can be given wherever a checkpoint is expected, for example `van_mm://b2_in1k`. Parameters and",
        "FLOPs are those of the config's model, with a classifier for backbones. The metric is the one that the source",
        "reports; `python tools/test.py CONFIG van_mm://NAME` on the real data set prints the measured one beside it.",
        "",
        "| name | backbone | trained on | params (M) | FLOPs (G) | file (MB) | published | source |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | --- |",
    ]  # fmt: skip
    for name, row in MODEL_ZOO.items():
        arch = row["arch"]
        if "lka" in row:
            config = f"cls/van_{row['lka'].lower()}_{arch}_in1k"
        elif arch.startswith("lsknet"):
            config = f"cls/{arch}_in1k"
        elif row["classes"] == 150:
            config = f"seg/{Path(row['file']).stem}"
        else:
            config = f"cls/van_{arch}_in1k" if arch < "b5" else f"cls/van_{arch}_in22k_ft_in1k"
        here = counts[config]
        published = "{metric} {value}, {protocol}".format(**row["published"]) if "published" in row else ""
        cells = [
            f"`{name}`", format_backbone(row), row["pretrain"], f"{here['params']:.1f}", f"{here['flops']:.1f}",
            row.get("file_mb") or row["size_mb"] or "", published, f"[{row['source']}]({row['url']})",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def render_docs() -> dict[str, str]:
    """Return the text of every generated file, by its path in the repository."""
    tables = load_paper()["tables"]
    checks = {n: [check_row(t, row, work_dirs="") for row in t["rows"]] for n, t in tables.items()}
    origin = f"Generated by `python {COMMAND} --update-docs`. Edit `van_mm/paper/paper.yml` instead of this file."
    files = {}
    for group, title in GROUP_TITLES.items():
        texts = [format_table(n, t, checks[n], "..") for n, t in tables.items() if t.get("group") == group]
        files[f"configs/{group}/README.md"] = "\n\n".join([f"# {title}", LEGEND, *texts, origin]) + "\n"
        content = make_metafile(group, tables, checks)
        if group == "cls":
            content = {"Collections": [make_collection()], **content}
        files[f"configs/{group}/metafile.yml"] = f"# {origin}\n" + yaml.safe_dump(content, sort_keys=False, width=120)
    texts = [format_table(n, t, checks[n]) for n, t in tables.items()]
    files["docs/paper_tables.md"] = "\n\n".join(["# The paper's tables", LEGEND, *texts, origin]) + "\n"
    zoo_origin = origin.replace("van_mm/paper/paper.yml", "van_mm/checkpoints/model_zoo.json")
    files["docs/model_zoo.md"] = f"{make_model_zoo(tables, checks)}\n\n{zoo_origin}\n"
    imports = [f"configs/{group}/metafile.yml" for group in GROUP_TITLES]
    files["model-index.yml"] = f"# {origin}\n" + yaml.safe_dump({"Import": imports})
    return files
