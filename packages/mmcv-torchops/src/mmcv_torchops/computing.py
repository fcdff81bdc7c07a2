"""How every operator computes: the floating-point type, the memory of temporary tensors, and no tracing."""

import torch
from torch import Tensor

# The most elements of a temporary tensor: what fits the caches of a CPU, or the memory of an accelerator.
CPU_CHUNK = 2**18
ACCELERATOR_CHUNK = 2**26

# torch.compile calls such functions instead of tracing them. It would compile loops anew for other numbers of samples,
# and some versions (such as PyTorch 2.11) lose what the backward pass of an autograd function writes in place.
untraced = torch.compiler.disable


def get_working_dtype(tensor: Tensor) -> torch.dtype:
    """Return the floating-point type to compute in: the tensor's own one, but at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def as_float(tensor: Tensor) -> Tensor:
    """Convert half and bfloat16 to float32, in which box areas neither overflow nor lose their digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def get_chunk_size(device: torch.device, elements: int) -> int:
    """Return how many items of ``elements`` elements to handle at once."""
    limit = CPU_CHUNK if device.type == "cpu" else ACCELERATOR_CHUNK
    return max(1, limit // max(1, elements))
