"""Compile the kernels: ``python -m van_mm.ops``."""

import sys

from van_mm.ops import build, library

if library().is_file():
    print(f"{library()} is there")
else:
    print("compiling van_mm's kernels for this processor: about 20 seconds", flush=True)
    try:
        print(f"{build()} is ready")
    except RuntimeError as error:
        sys.exit(f"error: {error}\nvan_mm works without them, only slower on the CPU.")
