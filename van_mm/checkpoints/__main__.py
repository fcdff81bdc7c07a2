"""List the published weights: ``python -m van_mm.checkpoints``."""

from pathlib import Path

import torch

from van_mm.checkpoints.io import MODEL_ZOO, MODEL_ZOO_PREFIX


def main() -> None:
    """Print a table of the published weights, and which of them are in the cache."""
    print(f"{'name':<28}{'VAN':<5}{'trained on':<14}{'classes':<9}{'MB':<7}{'cached':<8}source")
    for name, row in MODEL_ZOO.items():
        cached = Path(torch.hub.get_dir(), "checkpoints", row["url"].rpartition("/")[2]).is_file()
        print(
            f"{MODEL_ZOO_PREFIX + name:<28}{row['arch'].upper():<5}{row['pretrain']:<14}"
            f"{row['classes'] or 'no head':<9}{row['size_mb']:<7}{'yes' if cached else 'no':<8}{row['source']}"
        )


if __name__ == "__main__":
    main()
