"""DistributedDataParallel for the CPU."""

from mmengine.model import MMDistributedDataParallel
from torch import nn

from van_mm.models.layers.sync_bn import CPUSyncBatchNorm
from van_mm.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DistributedDataParallel for a model on the CPU.

    Every SyncBatchNorm of the model becomes a :class:`~van_mm.models.layers.sync_bn.CPUSyncBatchNorm`, because
    PyTorch's own works only on GPUs.

    Args:
        module (nn.Module): The model. It is changed in place.
        device_ids (list, optional): Ignored, because a model on the CPU has no device ids.
        broadcast_buffers (bool): Copy the buffers of rank 0 to all ranks in each forward pass. Defaults to False.
        kwargs: Further arguments of mmengine's ``MMDistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids=None, broadcast_buffers: bool = False, **kwargs) -> None:
        for norm in module.modules():
            if isinstance(norm, nn.SyncBatchNorm):
                norm.__class__ = CPUSyncBatchNorm
        super().__init__(module, broadcast_buffers=broadcast_buffers, **kwargs)
