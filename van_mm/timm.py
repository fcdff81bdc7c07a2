"""VAN and LSKNet in timm: ``import van_mm.timm`` registers ``van_b0`` to ``van_b6``, ``lsknet_t`` and ``lsknet_s``.

timm is optional. segmentation_models_pytorch finds the models as well, under timm's prefix for them, ``tu-van_b2``.

Example:
    >>> import timm, van_mm.timm
    >>> model = timm.create_model("van_b0", features_only=True, out_indices=(1, 3))
    >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 224))]
    [(1, 64, 28, 28), (1, 256, 7, 7)]
"""

from collections.abc import Sequence

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from van_mm.checkpoints.io import MODEL_ZOO, MODEL_ZOO_PREFIX
from van_mm.checkpoints.loading import load_van_weights
from van_mm.models.backbones.van import ARCH_SETTINGS, VAN

# Published weights of each size; the first are those of ``pretrained=True``. A tag of ``create_model``, as in
# ``van_b4.in22k``, chooses others.
PUBLISHED_WEIGHTS = {
    **{arch: {"in1k": f"{arch}_in1k_cls"} for arch in ("b0", "b1", "b2", "b3")},
    "b4": {"in1k": "b4_in1k_cls", "in22k": "b4_in22k"},
    "b5": {"in22k": "b5_in22k"},
    "b6": {"in22k": "b6_in22k"},
    "lsknet_t": {"in1k": "lsknet_t_in1k", "dota": "lsknet_t_dota"},
    "lsknet_s": {"in1k": "lsknet_s_in1k", "dota": "lsknet_s_dota"},
}


class TimmVAN(nn.Module):
    """A VAN classifier with timm's interface.

    The names of its parameters are those of this package's classifiers, ``backbone.*`` and ``head.fc.*``, and
    ``load_state_dict`` accepts every published layout.

    Args:
        arch (str): Size of the VAN. Defaults to 'b2'.
        in_chans (int): Channels of the input. Defaults to 3.
        num_classes (int): Classes; 0 builds no classifier. Defaults to 1000.
        global_pool (str): Pooling before the classifier: ``'avg'``, ``'max'``, ``'avgmax'``, ``'catavgmax'``, or
            ``''`` for none. Defaults to 'avg'.
        drop_rate (float): Dropout before the classifier. Defaults to 0.
        proj_drop_rate (float): Dropout in the feed-forward networks. Defaults to 0.
        drop_path_rate (float): Stochastic depth of the last block. Defaults to 0.
        kwargs: Other arguments of :class:`~van_mm.VAN`, such as ``lka_cfg``.
    """

    def __init__(
        self,
        arch: str = "b2",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__()
        self.backbone = VAN(
            arch,
            in_channels=in_chans,
            out_indices=(3,),
            drop_rate=proj_drop_rate,
            drop_path_rate=drop_path_rate,
            **kwargs,
        )
        widths = self.backbone.embed_dims
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = widths[-1]
        self.feature_info = [
            dict(num_chs=width, reduction=4 * 2**i, module=f"backbone.norm{i + 1}") for i, width in enumerate(widths)
        ]
        self.head = ClassifierHead(widths[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.backbone.init_weights()
        if isinstance(self.head.fc, nn.Linear):
            nn.init.trunc_normal_(self.head.fc.weight, std=0.02)
            nn.init.zeros_(self.head.fc.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map (N, C, H / 32, W / 32) of the last stage."""
        return self.backbone(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a map and classify it. With ``pre_logits`` only pool it."""
        return self.head(x, pre_logits=pre_logits) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of stages.

        Args:
            x (Tensor): Images (N, ``in_chans``, H, W).
            indices (int | Sequence[int], optional): Stages, or the number of the last ones. Defaults to all.
            norm (bool): Without effect, because VAN normalizes the map of every stage.
            stop_early (bool): Do not run stages after the last of ``indices``. Defaults to False.
            output_fmt (str): ``'NCHW'``, the only layout.
            intermediates_only (bool): Return the maps alone. Defaults to False.

        Returns:
            list | tuple: The maps, or the map of the last stage and the maps.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt='{output_fmt}' of VAN has to be 'NCHW'")
        stages, last = feature_take_indices(self.backbone.num_stages, indices)
        maps = self.backbone.forward_stages(x, last if stop_early else self.backbone.num_stages - 1)
        chosen = [maps[stage] for stage in stages]
        return chosen if intermediates_only else (maps[-1], chosen)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Delete the stages after the last of ``indices``, and the classifier if ``prune_head``. Return the stages."""
        stages, last = feature_take_indices(self.backbone.num_stages, indices)
        for number in range(last + 2, self.backbone.num_stages + 1):
            for part in ("patch_embed", "block", "norm"):
                delattr(self.backbone, f"{part}{number}")
        self.backbone.num_stages = last + 1
        self.backbone.out_indices = (last,)
        if prune_head:
            self.reset_classifier(0, "")
        return stages

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling if ``global_pool`` is given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass to save memory."""
        self.backbone.with_cp = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Return the patterns by which timm groups parameters for layer-wise learning rates."""
        block = r"^backbone\.block(\d+)" if coarse else r"^backbone\.block(\d+)\.(\d+)"
        return dict(
            stem=r"^backbone\.patch_embed1\.",
            blocks=[(block, None), (r"^backbone\.patch_embed(\d+)", (0,)), (r"^backbone\.norm(\d+)", (99999,))],
        )

    @torch.jit.ignore
    def load_pretrained(self, source: str, **_) -> None:
        """Load published weights, see :func:`~van_mm.load_van_weights`."""
        load_van_weights(self, source)


def make_pretrained_cfg(name: str) -> dict:
    """Return timm's description of published weights, given their name in the model zoo."""
    row = MODEL_ZOO[name]
    # VAN's classifiers were trained with a mean of 0.5. ImageNet-22K's and LSKNet's backbones are used with ImageNet's.
    is_classifier = row["classes"] is not None
    return dict(
        url=row["url"],
        file=f"{MODEL_ZOO_PREFIX}{name}",  # takes precedence: load_pretrained downloads it with this package's checks
        custom_load=True,
        num_classes=row["classes"] or 0,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.9,
        interpolation="bicubic",
        mean=IMAGENET_INCEPTION_MEAN if is_classifier else IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_INCEPTION_STD if is_classifier else IMAGENET_DEFAULT_STD,
        first_conv="backbone.patch_embed1.proj",
        classifier="head.fc",
        license="apache-2.0",
    )


def get_model_name(arch: str) -> str:
    """Return timm's name of a size: ``'van_b0'``, ``'lsknet_t'``."""
    return arch if arch.startswith("lsknet_") else f"van_{arch}"


default_cfgs = generate_default_cfgs(  # timm looks for this name in the module of a registered function
    {
        f"{get_model_name(arch)}.{tag}": make_pretrained_cfg(name)
        for arch, published in PUBLISHED_WEIGHTS.items()
        for tag, name in published.items()
    }
)


def register_arch(arch: str) -> None:
    """Register a size in timm."""
    name = get_model_name(arch)

    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        feature_cfg = dict(out_indices=(0, 1, 2, 3), feature_cls="getter")
        return build_model_with_cfg(TimmVAN, name, pretrained, feature_cfg=feature_cfg, arch=arch, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Build {name}, see :class:`TimmVAN`."
    register_model(create)


for _arch in ARCH_SETTINGS:
    register_arch(_arch)
