"""Read class folders, and CSV files of file and label."""

import csv
from pathlib import Path

from van_mm.datasets.folders.found import (
    Cache,
    FolderData,
    find_split,
    get_name,
    list_files,
    list_images,
    read_sizes,
    write_lists,
)
from van_mm.utils.errors import UserError

FILE_COLUMNS = (
    "file", "filename", "file_name", "image", "image_path", "path", "filepath", "file_path", "img", "image_id", "id",
    "name",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "class", "labels", "category", "target", "class_name", "classname", "label_name", "y", "breed", "species",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


def read_class_folders(folder: Path, cache: Cache, seed: int) -> FolderData | None:
    """Read images that lie in a folder for each class, with or without folders of splits above them."""
    groups: dict[str, dict[str, list[Path]]] = {}
    paths = list_images(folder)
    above_all = {path: path.relative_to(folder).parts[:-1] for path in paths}
    while (
        paths and len({above[:1] for above in above_all.values()}) == 1 and all(len(a) > 1 for a in above_all.values())
    ):
        above_all = {path: above[1:] for path, above in above_all.items()}  # one folder around all others
    for path, above in above_all.items():
        if above:
            groups.setdefault(above[0], {}).setdefault(above[1] if len(above) > 1 else "", []).append(path)
    splits = {name: find_split(name) for name in groups}
    has_splits = "train" in splits.values() and all(
        split and not (set(groups[name]) == {""} and split == "train") for name, split in splits.items()
    )
    parts: dict[str | None, dict[Path, list[str]]] = {}
    notes = []
    if has_splits:
        for name, classes in groups.items():
            loose = classes.pop("", [])
            if loose:
                notes.append(f"{len(loose)} images of {name} are in no class folder and are not used")
            part = parts.setdefault(splits[name], {})
            part.update({path: [kind] for kind, paths in classes.items() for path in paths})
    else:
        parts[None] = {path: [kind] for kind, below in groups.items() for paths in below.values() for path in paths}
    names = sorted({kinds[0] for part in parts.values() for kinds in part.values()})
    if not names:
        return None
    return make_label_data(folder, "class folders", names, parts, cache, seed, notes)


def read_csv(folder: Path, cache: Cache, seed: int) -> FolderData | None:
    """Read CSV files with a column of files and a column of labels, and perhaps one of splits."""
    parts: dict[str | None, dict[Path, list[str]]] = {}
    notes, used, images = [], [], None
    for table in list_files(folder, (".csv", ".tsv")):
        rows = None if "submission" in table.stem.lower() else read_table(table)  # Kaggle's has invented labels
        if rows is None:
            continue
        if images is None:
            images = {}
            for path in list_images(folder):
                for name in (path.name, path.stem):
                    images.setdefault(name, path)
        missing = 0
        for file, label, split in rows:
            beside = (folder_ / file for folder_ in (table.parent, folder))
            path = next((p for p in beside if p.is_file()), None) or images.get(Path(file).name)
            if path is None:
                missing += 1
                continue
            part = find_split(split) if split else find_split(table.stem)
            parts.setdefault(part, {})[path] = [label]
        if missing == len(rows):
            continue
        used.append(table.name)
        if missing:
            notes.append(f"{missing} of {len(rows)} files of {table.name} do not exist and are left out")
    if not parts:
        return None
    names = sorted({kinds[0] for part in parts.values() for kinds in part.values()}, key=sort_key)
    return make_label_data(folder, f"CSV ({', '.join(used)})", names, parts, cache, seed, notes)


def sort_key(name: str) -> tuple:
    """Return a key that sorts whole numbers by their value, before other names."""
    return (0, int(name), "") if name.isdigit() else (1, 0, name)


def read_table(path: Path) -> list[tuple[str, str, str]] | None:
    """Return file, label and split of each row of a CSV file, or None if it has no such columns."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        dialect = csv.Sniffer().sniff(text[:4096], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    rows = [row for row in csv.reader(text.splitlines(), dialect) if row]
    if not rows:
        return None
    header = [name.strip().lower() for name in rows[0]]

    def find_column(names: tuple[str, ...]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    file, label, split = (find_column(names) for names in (FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS))
    if file is not None and label is not None:
        rows = rows[1:]
    elif len(header) == 2 and Path(rows[0][0]).suffix:  # two columns without a header
        file, label, split = 0, 1, None
    else:
        return None
    width = max(file, label, split or 0)
    return [
        (row[file].strip(), row[label].strip(), row[split].strip() if split is not None else "")
        for row in rows
        if len(row) > width
    ]


def make_label_data(
    folder: Path, layout: str, names: list[str], parts: dict, cache: Cache, seed: int, notes: list[str]
) -> FolderData:
    """Write a list of files and labels for each split, as mmpretrain's ``CustomDataset`` reads them."""
    if len(names) < 2:
        raise UserError(f"{folder} has one class only, '{names[0]}'. Give each class a folder or a label of its own")
    number = {name: label for label, name in enumerate(names)}
    labels = {path: kinds[0] for part in parts.values() for path, kinds in part.items()}
    splits = write_lists(
        parts, folder, cache, seed, notes, lambda path: f"{get_name(path, folder)} {number[labels[path]]}"
    )
    for split, part in splits.items():
        if missing := [name for name in names if not part.counts[name]]:
            notes.append(f"{split} has no image of {', '.join(missing[:10])} ({len(missing)} of {len(names)} classes)")
    few = [name for name in names if 0 < splits["train"].counts[name] < 5]
    if few:
        notes.append(f"train has fewer than 5 images of {', '.join(few[:10])} ({len(few)} classes)")
    return FolderData(folder, "classes", layout, "images", names, splits, read_sizes(list(labels)), notes)
