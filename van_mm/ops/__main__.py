"""Compile the kernels: ``python -m van_mm.ops``."""

import sys

from van_mm.ops.library import build_library, get_library_path, is_complete_library

if is_complete_library(get_library_path()):
    print(f"the kernels are compiled already: {get_library_path()}")
else:
    print("compiling van_mm's kernels for this processor: about 20 seconds", flush=True)
    try:
        print(f"compiled {build_library()}")
    except RuntimeError as error:
        sys.exit(
            f"The kernels are not compiled: {error}. van_mm runs on PyTorch's operators, which is slower on the CPU."
        )
