"""Layer-wise learning rate decay for backbones in any codebase."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from van_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS
from van_mm.utils.errors import UserError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Optimizer constructor whose learning rates decrease from the head to the first layer of the backbone.

    The learning rate of a layer is the base learning rate times ``layer_decay_rate`` to the power of the number of
    layers above it. It works for backbones with ``get_layer_depth``, which are VAN and many of mmpretrain's, in models
    of all four codebases. The constructors of MMDetection, MMSegmentation and MMPose only know the parameter names of
    ConvNeXt or ViT.

    All other options of mmengine's ``DefaultOptimWrapperConstructor`` work too, such as ``norm_decay_mult`` and
    ``custom_keys``; a ``lr_mult`` is multiplied by the decay.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper. Its optimizer must have a ``lr``.
        paramwise_cfg (dict): Options. ``layer_decay_rate`` (or ``decay_rate``, its name in MMDetection and
            MMSegmentation) is the factor from layer to layer, above 0 and up to 1. ``decay_type`` is ``'layer_wise'``,
            the default, or ``'stage_wise'``, which counts stages instead of blocks. ``num_layers``, which upstream's
            constructors need, is ignored, because the backbone knows it.

    Raises:
        UserError: If the factor or the learning rate is missing, or an option is unknown.

    Example:
        >>> from mmengine.optim import build_optim_wrapper
        >>> model = nn.Sequential()
        >>> model.backbone, model.head = van_mm.VAN(arch="b0"), nn.Linear(256, 2)
        >>> cfg = dict(optimizer=dict(type="AdamW", lr=1.0), paramwise_cfg=dict(layer_decay_rate=0.9))
        >>> cfg["constructor"] = "van_mm.LearningRateDecayOptimWrapperConstructor"
        >>> groups = build_optim_wrapper(model, cfg).optimizer.param_groups
        >>> [round(groups[i]["lr"], 3) for i in (0, -3, -1)]  # patch embedding, last norm, head
        [0.229, 0.9, 1.0]
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        options = self.paramwise_cfg
        rate = options.get("layer_decay_rate", options.get("decay_rate"))
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise UserError(
                f"layer_decay_rate={rate} of {type(self).__name__}. Set optim_wrapper.paramwise_cfg.layer_decay_rate "
                "to a number above 0 and up to 1, such as 0.9"
            )
        decay_type = options.get("decay_type", "layer_wise")
        if decay_type not in ("layer_wise", "stage_wise"):
            raise UserError(f"decay_type={decay_type!r} of {type(self).__name__}. Use 'layer_wise' or 'stage_wise'")
        if self.base_lr is None:
            raise UserError(f"{type(self).__name__} needs optim_wrapper.optimizer.lr. Set it")
        self.rate, self.by_stage = rate, decay_type == "stage_wise"

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        """Add a group for each trainable parameter of a module, and set the learning rates.

        Args:
            params (list[dict]): Groups, extended in place.
            module (nn.Module): The model.
            prefix (str): Of the module in the model. Defaults to '', the model itself.
            **kwargs: Passed on to mmengine's constructor.

        Raises:
            UserError: If no module of the model has ``get_layer_depth``.
        """
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        scales = self.compute_scales(module)
        for group in params:
            group["lr_scale"] = scales.get(id(group["params"][0]), 1.0)
            group["lr"] = group.get("lr", self.base_lr) * group["lr_scale"]

    def compute_scales(self, model: nn.Module) -> dict[int, float]:
        """Return the factor of the learning rate of each parameter of the backbones, by the parameter's id."""
        # The model itself is left out, because classifiers have the method too and only ask their backbone.
        backbones = [child for name, child in model.named_modules() if name and hasattr(child, "get_layer_depth")]
        backbones = backbones or [model] * hasattr(model, "get_layer_depth")
        if not backbones:
            raise UserError(
                f"no module of {type(model).__name__} has get_layer_depth, so {type(self).__name__} does not know its "
                "layers. Use another backbone, or remove optim_wrapper.constructor"
            )
        options = dict(by_stage=True) if self.by_stage else {}
        scales = {}
        for backbone in backbones:
            for name, parameter in backbone.named_parameters():
                try:
                    depth, num_layers = backbone.get_layer_depth(name, "", **options)
                except TypeError as error:
                    raise UserError(
                        f"{type(backbone).__name__} has no decay by stages. Set decay_type to 'layer_wise'"
                    ) from error
                scales[id(parameter)] = self.rate ** (num_layers - depth - 1)
        return scales
