"""Visual Attention Network (VAN), a convolutional backbone built on large kernel attention (LKA).

Paper: `Visual Attention Network <https://arxiv.org/abs/2202.09741>`_, Guo et al., Computational Visual Media 2023.
Tables, figures, sections and equations are cited by the numbers of the journal version. Parameter names are those of
the official release (github.com/Visual-Attention-Network/VAN-Classification, models/van.py).
"""

import math
import re

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.utils.checkpoint import checkpoint

from van_mm.checkpoints.key_maps import rename_backbone_keys
from van_mm.models.backbones.fused_block import run_fused_where_possible
from van_mm.models.layers.depthwise_conv import DepthwiseConv2d
from van_mm.ops.dispatch import records_operators, to_fast_memory_format
from van_mm.registry import MODELS

# Table 5: widths, depths and feed-forward expansion ratios of the four stages.
ARCH_SETTINGS = {
    "b0": dict(embed_dims=[32, 64, 160, 256], depths=[3, 3, 5, 2], mlp_ratios=[8, 8, 4, 4]),
    "b1": dict(embed_dims=[64, 128, 320, 512], depths=[2, 2, 4, 2], mlp_ratios=[8, 8, 4, 4]),
    "b2": dict(embed_dims=[64, 128, 320, 512], depths=[3, 3, 12, 3], mlp_ratios=[8, 8, 4, 4]),
    "b3": dict(embed_dims=[64, 128, 320, 512], depths=[3, 5, 27, 3], mlp_ratios=[8, 8, 4, 4]),
    "b4": dict(embed_dims=[64, 128, 320, 512], depths=[3, 6, 40, 3], mlp_ratios=[8, 8, 4, 4]),
    "b5": dict(embed_dims=[96, 192, 480, 768], depths=[3, 3, 24, 3], mlp_ratios=[8, 8, 4, 4]),
    "b6": dict(embed_dims=[96, 192, 384, 768], depths=[6, 6, 90, 6], mlp_ratios=[8, 8, 4, 4]),
}
# LSKNet (arXiv 2303.09030, table 2): the widths and depths of b0 and b1 with another attention module.
ARCH_SETTINGS |= {
    "lsknet_t": ARCH_SETTINGS["b0"] | dict(lka_cfg=dict(type="LSK")),
    "lsknet_s": ARCH_SETTINGS["b1"] | dict(lka_cfg=dict(type="LSK")),
}
ARCH_ALIASES = {"tiny": "b0", "small": "b1", "base": "b2", "large": "b3"}  # names in the first official release


@MODELS.register_module()
class LKA(nn.Module):
    """Large kernel attention (fig. 3a, equations 1 and 2): ``x * Conv1x1(DW-D-Conv(DW-Conv(x)))``.

    A K x K convolution is decomposed into a (2d-1) x (2d-1) depth-wise convolution, a ceil(K/d) x ceil(K/d) depth-wise
    convolution with dilation d, and a 1x1 convolution (section 3.1). The boolean arguments and ``fusion`` are the
    ablations of table 3.

    Args:
        channels (int): C of the (N, C, H, W) input and output.
        kernel_size (int): K. Defaults to 21.
        dilation (int): d. Defaults to 3.
        dw_conv (bool): Use the (2d-1) x (2d-1) depth-wise convolution. Defaults to True.
        dw_d_conv (bool): Use the dilated depth-wise convolution. Defaults to True.
        pw_conv (bool): Use the 1x1 convolution. Defaults to True.
        decompose (bool): If False, one dense K x K convolution replaces all three. Defaults to True.
        fusion (str): How the attention map is applied: ``'mul'`` multiplies the input by it, ``'add'`` adds it to the
            input (fig. 3c), ``'none'`` returns the map itself (fig. 3b). Defaults to 'mul'.
        sigmoid (bool): Apply a sigmoid to the attention map. Defaults to False.

    Raises:
        ValueError: If ``fusion`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 21,
        dilation: int = 3,
        dw_conv: bool = True,
        dw_d_conv: bool = True,
        pw_conv: bool = True,
        decompose: bool = True,
        fusion: str = "mul",
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        if fusion not in ("mul", "add", "none"):
            raise ValueError(f"unknown fusion '{fusion}' for LKA; choose 'mul', 'add' or 'none'")
        self.fusion = fusion
        local = 2 * dilation - 1
        self.conv0 = self.conv_spatial = self.conv1 = nn.Identity()
        if not decompose:
            self.conv0 = nn.Conv2d(channels, channels, kernel_size, padding="same")
        else:
            if dw_conv:
                self.conv0 = DepthwiseConv2d(channels, local)
            if dw_d_conv:
                self.conv_spatial = DepthwiseConv2d(channels, math.ceil(kernel_size / dilation), dilation)
            if pw_conv:
                self.conv1 = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Sigmoid() if sigmoid else nn.Identity()

    @property
    def is_standard(self) -> bool:
        """Whether this is equation 2 without changes, which the fused operators compute."""
        return type(self) is LKA and self.fusion == "mul" and isinstance(self.gate, nn.Identity)

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention map (N, C, H, W) of ``x`` (N, C, H, W), equation 1."""
        return self.gate(self.conv1(self.conv_spatial(self.conv0(x))))

    def forward(self, x: Tensor) -> Tensor:
        attn = self.attention(x)
        if self.fusion == "mul":
            return x * attn
        return x + attn if self.fusion == "add" else attn


def build_attention_module(channels: int, type: str | type[nn.Module] = "LKA", **options) -> nn.Module:
    """Build LKA or one of its relatives, see :mod:`van_mm.models.attention`.

    Args:
        channels (int): C of the (N, C, H, W) input and output.
        type (str | type): A class, or its name in a registry. Defaults to 'LKA'.
        options: The other arguments of the class.

    Raises:
        ValueError: If there is no class of that name.
    """
    module = MODELS.get(type) if isinstance(type, str) else type
    if module is None:
        raise ValueError(f"no attention module '{type}' for VAN. Choose LKA, LSKA, LSK, DeformableLKA or MSCA")
    return module(channels, **options)


class Attention(nn.Module):
    """1x1 convolution, activation, LKA and 1x1 convolution with a shortcut around them (fig. 4)."""

    def __init__(self, channels: int, act_cfg: dict, lka_cfg: dict) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = build_activation_layer(act_cfg)
        self.spatial_gating_unit = build_attention_module(channels, **lka_cfg)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))


class DWConv(nn.Module):
    """The 3x3 depth-wise convolution of the feed-forward network, a module because the official keys have its name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv2d(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class ConvFFN(nn.Module):
    """Convolutional feed-forward network (section 3.2): 1x1, depth-wise 3x3, activation, 1x1 convolution."""

    def __init__(self, channels: int, hidden: int, act_cfg: dict, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DWConv(hidden)
        self.act = build_activation_layer(act_cfg)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.dwconv(self.fc1(x))))
        return self.drop(self.fc2(x))


@run_fused_where_possible
class Block(nn.Module):
    """One block of a stage (fig. 4): two residual branches with LayerScale and stochastic depth.

    The first branch is BatchNorm and attention, the second BatchNorm and the feed-forward network.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        drop_rate: float,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: dict,
        act_cfg: dict,
        lka_cfg: dict,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.attn = Attention(channels, act_cfg, lka_cfg)
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.mlp = ConvFFN(channels, int(channels * mlp_ratio), act_cfg, drop_rate)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        self.layer_scale_1 = self.layer_scale_2 = None
        if layer_scale_init_value > 0:
            self.layer_scale_1 = nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))
            self.layer_scale_2 = nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(apply_layer_scale(self.attn(self.norm1(x)), self.layer_scale_1))
        return x + self.drop_path(apply_layer_scale(self.mlp(self.norm2(x)), self.layer_scale_2))


def apply_layer_scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    """Multiply ``x`` (N, C, H, W) by LayerScale's ``gamma`` (C,); without LayerScale return ``x``."""
    return x if gamma is None else x * gamma.view(1, -1, 1, 1)


class OverlapPatchEmbed(nn.Module):
    """Overlapping patch embedding: BatchNorm after a convolution whose kernel is wider than its stride."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int, norm_cfg: dict):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2)
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


@MODELS.register_module()
class VAN(BaseModule):
    """Visual Attention Network (section 3.2, table 5).

    Takes images (N, ``in_channels``, H, W) of any size. Returns a tuple with one feature map for each of
    ``out_indices``: stage i gives (N, ``embed_dims[i]``, ceil(H / s), ceil(W / s)) with s = 4, 8, 16, 32.

    ``torch.jit``, ``torch.fx`` and ``torch.export`` record PyTorch's own operators, for images of any size (with
    ``torch.export``, whose graphs cannot follow a map of a single pixel, of more than 32 pixels).

    ``load_state_dict`` accepts the keys of every published layout, see :mod:`van_mm.checkpoints.key_maps`.

    Args:
        arch (str | dict): ``'b0'`` to ``'b6'``; ``'tiny'``, ``'small'``, ``'base'`` or ``'large'`` (aliases of b0 to
            b3); ``'lsknet_t'`` or ``'lsknet_s'``; or a dict of the lists ``embed_dims``, ``depths`` and
            ``mlp_ratios``, one entry a stage. Defaults to 'b2'.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (Sequence[int]): Stages to return, 0 to 3, in this order. Later stages do not run, and their
            parameters get no gradient. Defaults to (0, 1, 2, 3).
        drop_rate (float): Dropout in the feed-forward networks. Defaults to 0.
        drop_path_rate (float): Stochastic depth of the last block. The rate rises linearly from 0 at the first block.
            Defaults to 0.
        frozen_stages (int): Number of stages, counted from the first, whose parameters get no gradient and whose norms
            stay in eval mode, as in ResNet. Defaults to -1, none.
        norm_eval (bool): Keep every BatchNorm in eval mode while training. Defaults to False.
        norm_cfg (dict): Norm of the patch embeddings and blocks. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='GELU')``.
        layer_scale_init_value (float): Initial LayerScale; 0 builds no LayerScale ("w/o LS", table 7). Defaults to
            1e-2.
        with_cp (bool): Recompute blocks in the backward pass to save memory. Defaults to False.
        kernel_size (int, optional): K of LKA (table 6), or of another attention module that has one. Defaults to the
            module's own, 21 for LKA.
        dilation (int, optional): d of LKA (table 6), or of another attention module that has one. Defaults to the
            module's own, 3 for LKA.
        lka_cfg (dict, optional): Further arguments of the attention module: for :class:`LKA` the ablations of table 3.
            Its ``type`` names another module of :mod:`van_mm.models.attention`, such as ``'LSKA'``. Defaults to LKA,
            and to LSK for LSKNet.
        contiguous (bool): Return maps in NCHW memory order, which some operators of heads require, for example mmcv's
            deformable convolution. By default maps are channels-last, which is faster for convolutions. Defaults to
            False.
        init_cfg (dict, optional): Initialization. ``dict(type='Pretrained', checkpoint=...)`` takes a path, a URL or a
            name such as ``van_mm://b2_in1k``. By default the official initialization: convolutions normal with std
            sqrt(2 / fan_out), linear layers truncated normal with std 0.02.

    Raises:
        ValueError: If ``arch`` is unknown, or ``out_indices``, ``frozen_stages`` or ``drop_path_rate`` is out of range.

    Example:
        >>> model = VAN(arch="b0", out_indices=(1, 3))
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 224))]
        [(1, 64, 28, 28), (1, 256, 7, 7)]
    """

    def __init__(
        self,
        arch: str | dict = "b2",
        in_channels: int = 3,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        layer_scale_init_value: float = 1e-2,
        with_cp: bool = False,
        kernel_size: int | None = None,
        dilation: int | None = None,
        lka_cfg: dict | None = None,
        contiguous: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        arch = get_arch_settings(arch)
        self.embed_dims, self.depths = arch["embed_dims"], arch["depths"]
        self.num_stages = len(self.depths)
        if not out_indices or any(i not in range(self.num_stages) for i in out_indices):
            raise ValueError(f"out_indices={tuple(out_indices)} of VAN must name stages 0 to {self.num_stages - 1}")
        if frozen_stages > self.num_stages:
            raise ValueError(f"frozen_stages={frozen_stages} of VAN; it has {self.num_stages} stages")
        if not isinstance(drop_path_rate, (int, float)) or not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate={drop_path_rate} of VAN has to be from 0 up to, not including, 1")
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.contiguous = contiguous
        norm_cfg = norm_cfg or dict(type="BN")
        act_cfg = act_cfg or dict(type="GELU")
        lka_cfg = arch.get("lka_cfg", {}) | dict(lka_cfg or {})
        lka_cfg |= {k: v for k, v in dict(kernel_size=kernel_size, dilation=dilation).items() if v is not None}

        blocks = sum(self.depths)
        drop_path_rates = [drop_path_rate * i / max(blocks - 1, 1) for i in range(blocks)]
        for i, (channels, depth) in enumerate(zip(self.embed_dims, self.depths, strict=True)):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            patch_embed = OverlapPatchEmbed(in_channels, channels, kernel, stride, norm_cfg)
            start = sum(self.depths[:i])
            block = nn.ModuleList(
                Block(
                    channels,
                    arch["mlp_ratios"][i],
                    drop_rate,
                    rate,
                    layer_scale_init_value,
                    norm_cfg,
                    act_cfg,
                    lka_cfg,
                )
                for rate in drop_path_rates[start : start + depth]
            )
            setattr(self, f"patch_embed{i + 1}", patch_embed)
            setattr(self, f"block{i + 1}", block)
            setattr(self, f"norm{i + 1}", nn.LayerNorm(channels, eps=1e-6))
            in_channels = channels

        # Stages that no output needs do not run, and DistributedDataParallel waits for the gradient of each parameter.
        stages = self.get_stages()
        for stage in stages[: max(frozen_stages, 0)] + stages[max(self.out_indices) + 1 :]:
            for module in stage:
                module.requires_grad_(False)
        self._register_load_state_dict_pre_hook(rename_backbone_keys, with_module=True)

    def get_stages(self) -> list[tuple[nn.Module, nn.ModuleList, nn.LayerNorm]]:
        """Return the (patch embedding, blocks, norm) of each stage."""
        return [
            tuple(getattr(self, f"{name}{i + 1}") for name in ("patch_embed", "block", "norm"))
            for i in range(self.num_stages)
        ]

    def get_layer_depth(self, param_name: str, prefix: str = "", by_stage: bool = False) -> tuple[int, int]:
        """Return the depth of a parameter for layer-wise learning rate decay, as mmpretrain's backbones do.

        Args:
            param_name (str): Name of the parameter in the model.
            prefix (str): Of the backbone in the model, such as ``'backbone.'``. Defaults to ''.
            by_stage (bool): Count stages instead of blocks. Defaults to False.

        Returns:
            tuple[int, int]: The depth, and the number of depths. The first patch embedding has depth 0, and the blocks
            have the next depths in their order. The other patch embeddings belong to the block after them, the norms to
            the block before them, and parameters outside the backbone to the last depth.

        Example:
            >>> VAN(arch="b0").get_layer_depth("backbone.block2.1.norm1.weight", "backbone.")
            (5, 15)
        """
        num_depths = (self.num_stages if by_stage else sum(self.depths)) + 2
        found = re.match(r"(patch_embed|block|norm)(\d+)\.(?:(\d+)\.)?", param_name.removeprefix(prefix))
        if not param_name.startswith(prefix) or not found:
            return num_depths - 1, num_depths
        part, stage = found[1], int(found[2]) - 1
        if part == "patch_embed" and stage == 0:
            return 0, num_depths
        if by_stage:
            return stage + 1, num_depths
        block = {"patch_embed": 0, "norm": self.depths[stage] - 1}.get(part, int(found[3] or 0))
        return sum(self.depths[:stage]) + block + 1, num_depths

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says, or as the official release does."""
        if self.init_cfg is not None:
            super().init_weights()
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if module is not self and hasattr(module, "init_weights"):
                module.init_weights()
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = self.forward_stages(x, max(self.out_indices))
        return tuple(outs[i].contiguous() if self.contiguous else outs[i] for i in self.out_indices)

    def forward_stages(self, x: Tensor, last: int) -> list[Tensor]:
        """Return the maps of stages 0 to ``last`` for images (N, ``in_channels``, H, W)."""
        recompute = self.with_cp and not records_operators(x)
        x = to_fast_memory_format(x)
        outs = []
        for patch_embed, blocks, norm in self.get_stages()[: last + 1]:
            x = patch_embed(x)
            for block in blocks:
                x = checkpoint(block, x, use_reentrant=False) if recompute and x.requires_grad else block(x)
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            outs.append(x)
        return outs

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the module that ``torch.jit.script`` compiles, a graph of PyTorch's operators from ``torch.fx``."""
        module = symbolic_trace(self)
        for node in module.graph.nodes:
            node.type = None  # TorchScript knows no tuple of any length, forward's annotation
        module.recompile()
        return module

    def train(self, mode: bool = True) -> "VAN":
        """Set the mode, but keep frozen stages, and with ``norm_eval`` every BatchNorm, in eval mode. Returns self."""
        super().train(mode)
        if mode:
            for stage in self.get_stages()[: max(self.frozen_stages, 0)]:
                for module in stage:
                    module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self


def format_arch(arch: str) -> str:
    """Return the printed name of a size, such as ``'VAN-B0'`` or ``'LSKNet-T'``."""
    return f"LSKNet-{arch[-1].upper()}" if arch.startswith("lsknet_") else f"VAN-{arch.upper()}"


def get_arch_settings(arch: str | dict) -> dict:
    """Return the ``embed_dims``, ``depths`` and ``mlp_ratios`` of a VAN size (table 5).

    Args:
        arch (str | dict): A name, in lower or upper case, or a dict of the three lists.

    Returns:
        dict: The three lists, one entry a stage, and for LSKNet the default ``lka_cfg``.

    Raises:
        ValueError: If the name is unknown, or the dict lacks an entry or has lists of unequal lengths.
    """
    if isinstance(arch, str):
        name = ARCH_ALIASES.get(arch.lower(), arch.lower())
        if name not in ARCH_SETTINGS:
            names = ", ".join([*ARCH_SETTINGS, *ARCH_ALIASES])
            raise ValueError(f"unknown VAN arch '{arch}'; choose one of {names}, or give a dict")
        return ARCH_SETTINGS[name]
    keys = ("embed_dims", "depths", "mlp_ratios")
    if set(arch) != set(keys) or len({len(arch[key]) for key in keys}) != 1:
        raise ValueError(f"a VAN arch needs {', '.join(keys)} of equal length, got {dict(arch)}")
    return {key: list(arch[key]) for key in keys}
