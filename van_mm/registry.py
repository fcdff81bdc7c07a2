"""The registries of van_mm, children of mmengine's, in the scope ``van_mm``.

mmengine imports this module by itself when it meets the scope in a config, so ``dict(type='van_mm.VAN', arch='b2')``
builds in any codebase without ``custom_imports``. The modules under ``locations`` are imported when a registry is
first searched.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry("model", parent=MMENGINE_MODELS, scope="van_mm", locations=["van_mm.models"])
MODEL_WRAPPERS = Registry(
    "model_wrapper", parent=MMENGINE_MODEL_WRAPPERS, scope="van_mm", locations=["van_mm.engine.distributed"]
)
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="van_mm", locations=["van_mm.engine.hooks"])
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope="van_mm", locations=["van_mm.engine.optimizers"]
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optim_wrapper_constructor",
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="van_mm",
    locations=["van_mm.engine.optimizers"],
)
DATASETS = Registry(
    "dataset",
    parent=MMENGINE_DATASETS,
    scope="van_mm",
    locations=["van_mm.datasets.saliency", "van_mm.datasets.label_maps"],
)
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope="van_mm", locations=["van_mm.datasets.transforms"])
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="van_mm", locations=["van_mm.evaluation.metrics"])
