"""What ``mmcv.collect_env`` reports of the compilation of the operators."""

import torch


def get_compiler_version() -> str:
    """Say that the operators were not compiled."""
    return "not available (mmcv-torchops runs mmcv's operators in PyTorch)"


def get_compiling_cuda_version() -> str:
    """Return the CUDA (or HIP) version that PyTorch, which runs the operators, was built with."""
    return torch.version.cuda or torch.version.hip or "not available"
