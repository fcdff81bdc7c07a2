"""EDN, the salient object detection head of table 17, for any backbone with four stages.

Paper: `EDN: Salient Object Detection via Extremely-Downsampled Network <https://arxiv.org/abs/2012.13093>`_, Wu et al.,
IEEE TIP 2022. Official release: github.com/yuhuan-wu/EDN.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn


class SCPC(nn.Module):
    """Scale-correlated pyramid convolution (SCPC): a residual block with several dilations.

    A 1x1 convolution splits the input into one group of channels for each dilation. Each group passes a dilated 3x3
    convolution, and all groups but the first also take in the output of the previous convolution. A second 1x1
    convolution merges the outputs.

    Args:
        channels (int): C of the (N, C, H, W) input and output.
        dilations (Sequence[int]): Dilation of each 3x3 convolution.
        norm_cfg (dict): Norm after each convolution.
        base_width (int): Channels of each group if ``channels`` is 64. They grow in proportion to ``channels``, rounded
            down. Defaults to 24.
    """

    def __init__(self, channels: int, dilations: Sequence[int], norm_cfg: dict, base_width: int = 24) -> None:
        super().__init__()
        width = channels * base_width // 64
        self.split = ConvModule(channels, len(dilations) * width, 1, norm_cfg=norm_cfg)
        self.branches = nn.ModuleList(
            ConvModule(width, width, 3, padding=dilation, dilation=dilation, norm_cfg=norm_cfg)
            for dilation in dilations
        )
        self.merge = ConvModule(len(dilations) * width, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for group, branch in zip(self.split(x).chunk(len(self.branches), 1), self.branches, strict=True):
            outs.append(branch(group + outs[-1] if outs else group))
        return (x + self.merge(torch.cat(outs, 1))).relu_()


class EDNHead(BaseDecodeHead):
    """Head of the Extremely-Downsampled Network (EDN): two more stages, and a top-down decoder of SCPC blocks.

    The four backbone stages at strides 4 to 32 and the two added stages at strides 64 and 128 make six levels. The
    decoder computes one feature map for each level. The losses supervise predictions from the five finest maps, at
    strides 4 to 64, with equal weights (scripts/train.py:37-43 of the release). The map at stride 128 has only 3x3
    pixels for a 384x384 image, so it serves as a global description for the next level and predicts nothing itself.
    EDN's VGG, whose first stage has stride 1 (models/vgg.py:54), supervises its five finest levels, strides 1 to 16, in
    the same way. The final saliency map is the prediction at stride 4.

    The layers are those of the release with its P2T-Small backbone, with two exceptions that change no result: the
    convolutions have no bias, because the batch norm after them cancels it, and the pooling of the added stages rounds
    sizes up, so that maps with an odd side work too.

    Args:
        in_channels (Sequence[int]): Channels of the backbone's four stages.
        channels (Sequence[int]): Channels of the decoder at the six levels, finest first. The default comes from EDN's
            release, where it belongs to P2T-Small, whose stages are as wide as those of VAN-B1 and VAN-B2
            (models/model.py).
        extra_channels (int): Channels of the two added stages. Defaults to 256, as in the release for P2T-Small.
        dilations (Sequence[Sequence[int]]): Dilations of the SCPC blocks at the six levels, finest first. The default
            comes from the release. It decreases toward the coarse levels, whose maps are small.
        base_widths (Sequence[int]): Base widths of the SCPC blocks at the six levels, finest first: each of the four
            convolutions of a block has ``channels * base_width // 64`` channels. The default comes from the release,
            where 32 at the finest level gives 16 of 32 channels (models/model.py:189).
        norm_cfg (dict, optional): Norm of all convolutions. Defaults to ``dict(type='SyncBN', requires_grad=True)``.
        loss_decode (Sequence[dict]): Losses of each prediction. Defaults to binary cross-entropy and Dice loss.
        **kwargs: Arguments of mmsegmentation's ``BaseDecodeHead``.

    Raises:
        ValueError: If the lengths of ``channels``, ``dilations`` and ``base_widths`` differ from the number of levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int] = (32, 64, 128, 256, 128, 128),
        extra_channels: int = 256,
        dilations: Sequence[Sequence[int]] = (*[(1, 2, 4, 8)] * 2, *[(1, 2, 3, 4)] * 2, *[(1, 1, 1, 1)] * 2),
        base_widths: Sequence[int] = (32, 24, 24, 24, 24, 24),
        norm_cfg: dict | None = None,
        loss_decode: Sequence[dict] = (
            dict(type="CrossEntropyLoss", use_sigmoid=True),
            dict(type="van_mm.BinaryDiceLoss"),
        ),
        **kwargs,
    ) -> None:
        levels = [*in_channels, extra_channels, extra_channels]
        if not len(levels) == len(channels) == len(dilations) == len(base_widths):
            raise ValueError(
                f"EDNHead has two levels more than in_channels, {len(levels)}; got {len(channels)} channels, "
                f"{len(dilations)} dilations and {len(base_widths)} base_widths. Set channels, dilations and "
                "base_widths to one entry for each level."
            )
        norm_cfg = norm_cfg or dict(type="SyncBN", requires_grad=True)
        super().__init__(
            in_channels,
            channels[0],
            in_index=kwargs.pop("in_index", list(range(len(in_channels)))),
            input_transform="multiple_select",
            num_classes=kwargs.pop("num_classes", 2),
            out_channels=kwargs.pop("out_channels", 1),
            threshold=kwargs.pop("threshold", 0.5),
            dropout_ratio=kwargs.pop("dropout_ratio", 0),
            norm_cfg=norm_cfg,
            loss_decode=list(loss_decode),
            **kwargs,
        )

        def extra_stage(channels: int) -> nn.Sequential:
            return nn.Sequential(
                nn.MaxPool2d(2, ceil_mode=True),
                ConvModule(channels, extra_channels, 3, padding=1, norm_cfg=norm_cfg),
                ConvModule(extra_channels, extra_channels, 3, padding=1, norm_cfg=norm_cfg),
            )

        self.extra_stages = nn.ModuleList([extra_stage(in_channels[-1]), extra_stage(extra_channels)])
        # Half of a level's channels come from its own features, the other half from the next coarser level. The
        # coarsest level uses its own features only.
        halves = [*(width // 2 for width in channels[:-1]), channels[-1]]
        self.laterals = nn.ModuleList(ConvModule(*io, 1, norm_cfg=norm_cfg) for io in zip(levels, halves, strict=True))
        self.tops = nn.ModuleList(
            ConvModule(below, width - width // 2, 1, norm_cfg=norm_cfg)
            for below, width in zip(channels[1:], channels[:-1], strict=True)
        )
        self.fusions = nn.ModuleList(
            nn.Sequential(*(SCPC(width, steps, norm_cfg, base_width) for _ in range(2)))
            for width, steps, base_width in zip(channels, dilations, base_widths, strict=True)
        )
        # BaseDecodeHead's conv_seg predicts from the finest level, these from the next four.
        self.side_predictions = nn.ModuleList(nn.Conv2d(width, self.out_channels, 1) for width in channels[1:-1])

    def decode(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the decoder's maps at the six levels, finest first.

        Args:
            inputs (Sequence[Tensor]): The backbone's feature maps (N, in_channels[i], H / s, W / s) with s = 4 to 32.

        Returns:
            list[Tensor]: Maps (N, channels[i], H / s, W / s) with s = 4 to 128, where the sizes are rounded up.
        """
        levels = self._transform_inputs(inputs)
        for stage in self.extra_stages:
            levels = [*levels, stage(levels[-1])]
        gate = levels[-1].mean((2, 3), keepdim=True).sigmoid()  # channel attention from the whole image
        levels = [*levels[:-2], levels[-2] * gate, levels[-1] * gate]
        maps = [self.fusions[-1](self.laterals[-1](levels[-1]))]
        for level, lateral, top, fuse in reversed(
            list(zip(levels[:-1], self.laterals[:-1], self.tops, self.fusions[:-1], strict=True))
        ):
            above = resize(top(maps[0]), level.shape[2:], mode="bilinear", align_corners=self.align_corners)
            maps.insert(0, fuse(torch.cat([lateral(level), above], 1)))
        return maps

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the saliency logits (N, 1, H / 4, W / 4) for the backbone's feature maps."""
        return self.cls_seg(self.decode(inputs)[0])

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: dict) -> dict[str, Tensor]:
        """Return the losses of the five predictions, named ``loss_<kind>_<level>``, where level 1 is the finest."""
        predictions = [self.cls_seg, *self.side_predictions]
        losses = {}
        for level, (predict, features) in enumerate(zip(predictions, self.decode(inputs)[:-1], strict=True), 1):
            for name, value in self.loss_by_feat(predict(features), batch_data_samples).items():
                if name != "acc_seg":  # this accuracy takes an argmax over channels, and there is only one
                    losses[f"{name}_{level}"] = value
        return losses
