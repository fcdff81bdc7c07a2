"""List the published weights: ``python -m van_mm.checkpoints``."""

from van_mm.checkpoints.io import MODEL_ZOO, MODEL_ZOO_PREFIX, get_cache_path
from van_mm.checkpoints.loading import format_backbone


def main() -> None:
    """Print a table of the published weights, and which of them are in the cache."""
    print(f"{'name':<32}{'backbone':<17}{'trained on':<14}{'classes':<9}{'MB':<7}{'published':<22}{'cached':<8}source")
    for name, row in MODEL_ZOO.items():
        size = row.get("file_mb") or row["size_mb"] or "-"
        published = "{metric} {value}".format(**row["published"]) if "published" in row else "-"
        cached = "yes" if get_cache_path(row["url"]).is_file() else "no"
        print(
            f"{MODEL_ZOO_PREFIX + name:<32}{format_backbone(row):<17}{row['pretrain']:<14}"
            f"{row['classes'] or 'no head':<9}{size:<7}{published:<22}{cached:<8}{row['source']}"
        )


if __name__ == "__main__":
    main()
