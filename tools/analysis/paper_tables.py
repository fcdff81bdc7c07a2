#!/usr/bin/env python
"""The paper's tables, each figure beside what is counted or measured here.

python tools/analysis/paper_tables.py                    # all of them
python tools/analysis/paper_tables.py --table 12 13 --markdown tables.md --json tables.json
python tools/analysis/paper_tables.py --configs mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco --backbone b2

Parameters and FLOPs (multiply-adds of convolutions and matrix products) are counted on the model that the row's config
builds, at the paper's image size; no arithmetic is done and no weights are needed. A metric is shown where
work_dirs/<config>/ has a run. Exit code 1 if a counted figure disagrees with a printed one, unless
van_mm/paper/paper.yml says why it has to.
"""

import argparse
import json
import sys
from decimal import Decimal
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", type=int, nargs="+", metavar="N", help="which tables (default: all)")
    what.add_argument("--configs", nargs="+", metavar="CONFIG", help="a table of these instead, ours or upstream's")
    parser.add_argument("--backbone", metavar="ARCH", help="with --configs: also with VAN of this size, b0 to b6")
    parser.add_argument("--input", type=int, nargs=2, metavar=("H", "W"), help="with --configs: FLOPs at this size")
    parser.add_argument("--work-dirs", metavar="DIR", help="where runs are (default: work_dirs)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    parser.add_argument(
        "--update-docs",
        action="store_true",
        help="rewrite the checkout's files that repeat the paper's figures, and stop",
    )
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables as Markdown")
    return parser.parse_args()


def update_docs() -> int:
    from van_mm.configs import CHECKOUT, CONFIGS
    from van_mm.launch import UserError
    from van_mm.paper.docs import render

    if CONFIGS.parent != CHECKOUT:
        raise UserError("--update-docs writes into a checkout, and this van_mm is installed without one")
    for name, text in render().items():
        (CHECKOUT / name).write_text(text)
        print(f"wrote {name}")
    return 0


def main(args: argparse.Namespace) -> int:
    if args.update_docs:
        return update_docs()
    from rich.console import Console
    from rich.progress import track

    from van_mm.launch import UserError
    from van_mm.paper import check_row, lka_parameters, load_paper, markdown, own_table

    if not args.configs and (args.backbone or args.input):
        raise UserError("--backbone and --input go with --configs")
    tables = load_paper()["tables"]
    unknown = set(args.table or ()) - set(tables)
    if unknown:
        raise UserError(f"the paper has no table {sorted(unknown)} of results; choose from {sorted(tables)}")
    if args.work_dirs and not Path(args.work_dirs).is_dir():
        raise UserError(f"--work-dirs {args.work_dirs} is no folder")
    if args.configs:
        chosen = {0: own_table(args.configs, args.backbone, args.input)}
    else:
        chosen = {number: tables[number] for number in args.table or tables}
    rows = [(number, row) for number, table in chosen.items() for row in table["rows"]]
    checks = {number: [] for number in chosen}
    for number, row in track(rows, "counting", console=Console(stderr=True)):
        checks[number].append(check_row(chosen[number], row, args.work_dirs or "work_dirs"))

    if args.configs:  # of the metrics, those that a run has
        found = {name: None for check in checks[0] for name in check["here"]}
        chosen[0]["counts"] = list(dict.fromkeys([*chosen[0]["counts"], *found]))
    texts, wrong = [], []
    for number, table in chosen.items():
        texts.append(markdown(number, table, checks[number]))
        for row, check in zip(table["rows"], checks[number], strict=True):
            wrong += [
                f"table {number}, {row['row']}: {column}"
                for column in check["wrong"]
                if column not in row.get("known", {})
            ]
        if "best_dilation" in table:
            best = min(range(1, table["kernel_size"] + 1), key=lambda d: lka_parameters(64, table["kernel_size"], d))
            if best != table["best_dilation"]:
                wrong.append(f"equation 3: P is smallest at d = {best}, not {table['best_dilation']}")
    text = "\n\n".join(texts)
    print(text)
    if args.markdown:
        Path(args.markdown).write_text(text + "\n")
    if args.json:
        content = {
            str(number): [
                dict(
                    row=row["row"],
                    config=row.get("config"),
                    paper={k: float(v) for k, v in row.items() if isinstance(v, (int, Decimal))},
                    **check,
                )
                for row, check in zip(table["rows"], checks[number], strict=True)
            ]
            for number, table in chosen.items()
        }
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    if wrong:
        print("\nDisagree with the paper:\n  " + "\n  ".join(wrong), file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    args = parse_args()

    from van_mm.launch import user_errors

    with user_errors():
        sys.exit(main(args))
