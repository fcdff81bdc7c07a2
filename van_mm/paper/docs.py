"""The files that repeat the paper's figures, written from ``paper.yml``: README.md and metafile.yml of each folder of
configs, model-index.yml, and docs/paper_tables.md."""

from pathlib import Path

import yaml

from van_mm.configs import list_configs
from van_mm.weights import TABLE

from . import check_row, columns, config_of, load_paper, markdown

GROUPS = {
    "cls": "Classification: ImageNet-1K, ImageNet-22K, CUB-200-2011, and the ablations",
    "det": "Object detection, instance and panoptic segmentation on COCO",
    "seg": "Semantic segmentation on ADE20K, and salient object detection",
    "pose": "Human pose on COCO",
}
COMMAND = "tools/analysis/paper_tables.py"
LEGEND = (
    "Each cell is `paper / here`: the figure that the paper prints, and what is counted on the model that the config\n"
    "builds (parameters, multiply-adds) or measured on the machine that ran the command (metrics; `-` where it has no\n"
    "such run). `!` marks a count that disagrees."
)


def metafile(group: str, tables: dict, checks: dict) -> dict:
    """The content of ``configs/<group>/metafile.yml``; results are the paper's, counts are ours."""
    rows = {}
    for number, table in tables.items():
        if table.get("group") == group:
            for row, check in zip(table["rows"], checks[number], strict=True):
                if "config" in row:
                    rows.setdefault(row["config"], (number, table, row, check))
    models = []
    for config in list_configs(f"{group}/*"):
        cfg = config_of(config)
        meta = {"Architecture": "Visual Attention Network", "Size": cfg.model.backbone.arch.upper()}
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
                for name in columns(table)
                if name in row and name in table["metrics"]
            }
            if metrics:
                model["Results"] = [{"Task": table["task"], "Dataset": table["dataset"], "Metrics": metrics}]
                model["Paper Table"] = number
        if (
            weights := TABLE.get(f"{cfg.model.backbone.arch}_in1k_cls")
        ) and config == f"cls/van_{weights['arch']}_in1k":
            model["Weights"] = weights["url"]
        models.append(model)
    return {"Models": models}


def collection() -> dict:
    """The collection that all models are in."""
    return {
        "Name": "VAN",
        "Metadata": {"Architecture": ["Visual Attention Network"]},
        "Paper": {"URL": "https://arxiv.org/abs/2202.09741", "Title": "Visual Attention Network"},
        "README": "configs/cls/README.md",
        "Code": {"Version": "v0.1.0"},
    }


def render() -> dict[str, str]:
    """Content of every file, by its path in the checkout."""
    tables = load_paper()["tables"]
    checks = {n: [check_row(t, row, work_dirs="") for row in t["rows"]] for n, t in tables.items()}
    made = f"Made by `python {COMMAND} --update-docs`; edit `van_mm/paper/paper.yml`, not this file."
    files = {}
    for group, title in GROUPS.items():
        texts = [markdown(n, t, checks[n], "..") for n, t in tables.items() if t.get("group") == group]
        files[f"configs/{group}/README.md"] = "\n\n".join([f"# {title}", LEGEND, *texts, made]) + "\n"
        content = metafile(group, tables, checks)
        if group == "cls":
            content = {"Collections": [collection()], **content}
        files[f"configs/{group}/metafile.yml"] = f"# {made}\n" + yaml.safe_dump(content, sort_keys=False, width=120)
    texts = [markdown(n, t, checks[n]) for n, t in tables.items()]
    files["docs/paper_tables.md"] = "\n\n".join(["# The paper's tables", LEGEND, *texts, made]) + "\n"
    imports = [f"configs/{group}/metafile.yml" for group in GROUPS]
    files["model-index.yml"] = f"# {made}\n" + yaml.safe_dump({"Import": imports})
    return files
