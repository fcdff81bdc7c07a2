"""Find the largest batch of a training that fits into memory (``--batch auto``)."""

import copy
import gc
import os

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, FUNCTIONS, MODELS, OPTIM_WRAPPERS, init_default_scope
from torch import nn

from van_mm.utils.config_walk import drop_pretrained, get_type_name
from van_mm.utils.errors import UserError, wrap_build_errors
from van_mm.utils.random_state import keep_random_state

MEMORY_SHARE = 0.5  # share of the free memory of a machine without a GPU that a batch may take; our choice
MAX_BATCH = 1024


def find_batch_size(cfg: Config) -> tuple[int, str]:
    """Return the largest power of two that fits as a batch of each process, and how it was found.

    On a GPU, training steps are run with batches of 2, 4, 8 and so on, until memory runs out. On a CPU, the memory that
    the backward pass of two images needs is counted. A batch is not larger than ``auto_scale_lr.base_batch_size``, to
    which the learning rate belongs, or than a tenth of the data.

    Args:
        cfg (Config): An experiment whose training data exist.

    Raises:
        UserError: If the model or the data set does not build, or not even two images fit on the GPU.
    """
    init_default_scope(cfg.default_scope)
    with keep_random_state(), wrap_build_errors():
        dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
        model = build_training_model(cfg)
        limit = (cfg.get("auto_scale_lr") or {}).get("base_batch_size") or MAX_BATCH
        limit = max(2, min(limit, MAX_BATCH, len(dataset) // 10))
        collate = get_collate(cfg)
        if torch.cuda.is_available():
            return find_on_gpu(cfg, model, dataset, collate, limit)
        per_image = measure_saved_bytes(model, collate([dataset[0], dataset[len(dataset) // 2]])) / 2
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fitting = max(2, int(MEMORY_SHARE * free / max(1, per_image)))
    batch = 1 << min(fitting, limit).bit_length() - 1
    return batch, f"{per_image / 1e6:.0f} MB for each image, {free / 1e9:.1f} GB free"


def build_training_model(cfg: Config) -> nn.Module:
    """Build the model of a config in training mode, with random weights and BatchNorm instead of SyncBatchNorm."""
    from mmengine.model import revert_sync_batchnorm

    model_cfg = copy.deepcopy(cfg.model)
    if "data_preprocessor" in cfg:
        model_cfg.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    drop_pretrained(model_cfg)
    return revert_sync_batchnorm(MODELS.build(model_cfg)).train()


def get_collate(cfg: Config):
    """Return the function of the training loader that makes a batch of samples."""
    name = get_type_name(cfg.train_dataloader.get("collate_fn") or {})
    return FUNCTIONS.get(name) if name else pseudo_collate


def compute_loss(model: nn.Module, batch: dict) -> torch.Tensor:
    """Return the loss of a batch."""
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode="loss") if isinstance(data, dict) else model(*data, mode="loss")
    return model.parse_losses(losses)[0]


def measure_saved_bytes(model: nn.Module, batch: dict) -> int:
    """Return how many bytes the forward pass of a batch keeps for the backward pass, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        compute_loss(model, batch)
    return sum(saved.values())


def find_on_gpu(cfg: Config, model: nn.Module, dataset, collate, limit: int) -> tuple[int, str]:
    """Return the largest batch with which a training step runs on the GPU."""
    model = model.cuda()
    optimizer = OPTIM_WRAPPERS.build(
        dict(type="OptimWrapper", optimizer=torch.optim.AdamW(model.parameters(), lr=0.0))  # the usual size of a state
    )
    fitting, size = 0, 2
    while size <= limit:
        batch = collate([dataset[index % len(dataset)] for index in range(size)])
        try:
            optimizer.update_params(compute_loss(model, batch))
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            optimizer.zero_grad()
        fitting, size = size, 2 * size
    peak = torch.cuda.max_memory_allocated() / 1e9
    del model, optimizer
    gc.collect()
    torch.cuda.empty_cache()
    if not fitting:
        raise UserError("--batch auto: not even two images fit on the GPU. Use smaller images, or a smaller model")
    return fitting, f"{peak:.1f} GB at most on the GPU"
