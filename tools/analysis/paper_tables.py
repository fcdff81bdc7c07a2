#!/usr/bin/env python
"""Print the paper's tables, each figure next to the value that is counted or measured here.

python tools/analysis/paper_tables.py                    # all tables
python tools/analysis/paper_tables.py --table 12 13 --markdown tables.md --json tables.json
python tools/analysis/paper_tables.py --configs mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco --backbone b2

Parameters and FLOPs (multiply-adds of convolutions and matrix products) are counted on the model that the row's config
builds, at the paper's image size. Counting needs no weights and mostly no arithmetic, because models run on PyTorch's
meta device where they can. A metric is shown if work_dirs/<config>/ contains a run.

The exit code is 1 if a counted figure disagrees with the paper and van_mm/paper/paper.yml does not explain why.
"""

import argparse
import json
import sys
from decimal import Decimal
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--table",
        type=lambda text: int(text) if text.isdecimal() else text,
        nargs="+",
        metavar="N",
        help="tables to print: numbers of the paper's, or names such as lsknet (default: all)",
    )
    source.add_argument(
        "--configs", nargs="+", metavar="CONFIG", help="print a table of these configs instead, also upstream's"
    )
    parser.add_argument("--backbone", metavar="ARCH", help="with --configs: add a row with VAN of this size, b0 to b6")
    parser.add_argument(
        "--input", type=int, nargs=2, metavar=("H", "W"), help="with --configs: image size to count FLOPs at"
    )
    parser.add_argument("--work-dirs", metavar="DIR", help="folder of the runs (default: work_dirs)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables as Markdown")
    parser.add_argument(
        "--update-docs", action="store_true", help="only rewrite the files of the checkout that repeat these figures"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    if args.update_docs:
        update_docs()
        return 0

    from rich.console import Console
    from rich.progress import track

    from van_mm.paper.tables import check_row, format_table, load_paper, make_config_table
    from van_mm.utils.errors import UserError

    if not args.configs and (args.backbone or args.input):
        raise UserError("--backbone and --input go with --configs")
    paper_tables = load_paper()["tables"]
    unknown = set(args.table or ()) - set(paper_tables)
    if unknown:
        raise UserError(
            f"the paper has no table {', '.join(map(str, unknown))} of results; "
            f"choose from {', '.join(map(str, paper_tables))}"
        )
    if args.work_dirs and not Path(args.work_dirs).is_dir():
        raise UserError(f"--work-dirs {args.work_dirs} is not a folder")

    # Count every row of the chosen tables.
    if args.configs:
        tables = {0: make_config_table(args.configs, args.backbone, args.input)}
    else:
        tables = {number: paper_tables[number] for number in args.table or paper_tables}
    rows = [(number, row) for number, table in tables.items() for row in table["rows"]]
    checks = {number: [] for number in tables}
    for number, row in track(rows, "counting", console=Console(stderr=True)):
        checks[number].append(check_row(tables[number], row, args.work_dirs or "work_dirs"))
    if args.configs:  # a table of configs only has columns for the metrics of its runs
        measured = {name: None for check in checks[0] for name in check["here"]}
        tables[0]["counts"] = list(dict.fromkeys([*tables[0]["counts"], *measured]))

    # Print and write the tables.
    text = "\n\n".join(format_table(number, table, checks[number]) for number, table in tables.items())
    print(text)
    if args.markdown:
        Path(args.markdown).write_text(text + "\n")
    if args.json:
        content = {str(number): list_figures(table, checks[number]) for number, table in tables.items()}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")

    disagreements = []
    for number, table in tables.items():
        disagreements += find_disagreements(number, table, checks[number])
    if disagreements:
        print("\nDisagree with the paper:\n  " + "\n  ".join(disagreements), file=sys.stderr)
    return int(bool(disagreements))


def update_docs() -> None:
    """Rewrite the files of the checkout that repeat the paper's figures."""
    from van_mm.apis.configs import CHECKOUT_DIR, CONFIG_DIR
    from van_mm.paper.docs import render_docs
    from van_mm.utils.errors import UserError

    if CONFIG_DIR.parent != CHECKOUT_DIR:
        raise UserError("--update-docs needs a checkout, but this van_mm is installed without one")
    for name, text in render_docs().items():
        (CHECKOUT_DIR / name).write_text(text)
        print(f"wrote {name}")


def list_figures(table: dict, checks: list[dict]) -> list[dict]:
    """Return the paper's figures and the checked ones for each row of a table, as JSON can hold them."""
    return [
        dict(
            row=row["row"],
            config=row.get("config"),
            paper={key: float(value) for key, value in row.items() if isinstance(value, (int, Decimal))},
            **check,
        )
        for row, check in zip(table["rows"], checks, strict=True)
    ]


def find_disagreements(number: int, table: dict, checks: list[dict]) -> list[str]:
    """Return a line for each figure of a table that disagrees with the paper without a known reason."""
    from van_mm.paper.tables import count_lka_parameters

    lines = [
        f"table {number}, {row['row']}: {column}"
        for row, check in zip(table["rows"], checks, strict=True)
        for column in check["wrong"]
        if column not in row.get("known", {})
    ]
    if "best_dilation" in table:
        size = table["kernel_size"]
        best = min(range(1, size + 1), key=lambda dilation: count_lka_parameters(64, size, dilation))
        if best != table["best_dilation"]:
            lines.append(f"equation 3: P is smallest at d = {best}, not {table['best_dilation']}")
    return lines


if __name__ == "__main__":
    args = parse_args()

    from van_mm.apis.command_line import exit_with_message

    with exit_with_message():
        sys.exit(main(args))
