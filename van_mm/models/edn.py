"""EDN, the saliency decoder of table 17 (Wu et al., IEEE TIP 2022, arXiv 2012.13093), for any four-stage backbone."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn


class SCPC(nn.Module):
    """Scale-correlated pyramid convolution: four 3x3 convolutions of growing dilation, each of which also sees what
    the one before it found, between two 1x1 convolutions and under a shortcut.

    Args:
        channels (int): C, in and out.
        dilations (Sequence[int]): Of the four.
        norm_cfg (dict): Norm behind each convolution.
    """

    def __init__(self, channels: int, dilations: Sequence[int], norm_cfg: dict) -> None:
        super().__init__()
        width = channels * 3 // 8
        self.split = ConvModule(channels, len(dilations) * width, 1, norm_cfg=norm_cfg)
        self.branches = nn.ModuleList(
            ConvModule(width, width, 3, padding=dilation, dilation=dilation, norm_cfg=norm_cfg)
            for dilation in dilations
        )
        self.merge = ConvModule(len(dilations) * width, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        found = []
        for part, branch in zip(self.split(x).chunk(len(self.branches), 1), self.branches, strict=True):
            found.append(branch(part + found[-1] if found else part))
        return (x + self.merge(torch.cat(found, 1))).relu_()


class EDNHead(BaseDecodeHead):
    """Extremely-downsampled network: two more stages below the backbone's last, and a top-down decoder of SCPC.

    Four backbone stages at strides 4 to 32 and the two added ones at 64 and 128 make six levels; the decoder turns
    each into a map of its own. The *five* predictions, each with the whole loss, are those of strides 4 to 64: the
    map of the last level is a global description (3x3 positions of a 384x384 image) that the next one takes in, not
    something to read an outline from. EDN's VGG, whose first stage has stride 2, supervises strides 2 to 32 the same
    way, from the finest level on. The prediction of stride 4 is the result.

    Args:
        in_channels (Sequence[int]): Channels of the backbone's four stages.
        channels (Sequence[int]): Channels of the decoder at the six levels, finest first. Defaults to those of EDN's
            release for a backbone of VAN-B1's and B2's widths.
        extra_channels (int): Channels of the two added stages. Defaults to 256.
        dilations (Sequence[Sequence[int]]): Of SCPC at the six levels; coarse maps are small.
        norm_cfg (dict): Defaults to SyncBN.
        loss_decode (Sequence[dict]): Losses of each prediction. Defaults to binary cross-entropy and Dice.
        kwargs: As for mmsegmentation's ``BaseDecodeHead``.

    Raises:
        ValueError: If the number of levels does not fit.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int] = (32, 64, 128, 256, 128, 128),
        extra_channels: int = 256,
        dilations: Sequence[Sequence[int]] = (*[(1, 2, 4, 8)] * 2, *[(1, 2, 3, 4)] * 2, *[(1, 1, 1, 1)] * 2),
        norm_cfg: dict | None = None,
        loss_decode: Sequence[dict] = (
            dict(type="CrossEntropyLoss", use_sigmoid=True),
            dict(type="van_mm.BinaryDiceLoss"),
        ),
        **kwargs,
    ) -> None:
        levels = [*in_channels, extra_channels, extra_channels]
        if not len(levels) == len(channels) == len(dilations):
            raise ValueError(
                f"EDNHead has two levels more than in_channels, {len(levels)}; got {len(channels)} channels and "
                f"{len(dilations)} dilations"
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

        def extra_stage(before: int) -> nn.Sequential:
            return nn.Sequential(
                nn.MaxPool2d(2, ceil_mode=True),
                ConvModule(before, extra_channels, 3, padding=1, norm_cfg=norm_cfg),
                ConvModule(extra_channels, extra_channels, 3, padding=1, norm_cfg=norm_cfg),
            )

        self.extra_stages = nn.ModuleList([extra_stage(in_channels[-1]), extra_stage(extra_channels)])
        # Level i is half its own features and half those of the level below it; the last is its own features.
        halves = [*(width // 2 for width in channels[:-1]), channels[-1]]
        self.laterals = nn.ModuleList(ConvModule(*io, 1, norm_cfg=norm_cfg) for io in zip(levels, halves, strict=True))
        self.tops = nn.ModuleList(
            ConvModule(below, width - width // 2, 1, norm_cfg=norm_cfg)
            for below, width in zip(channels[1:], channels[:-1], strict=True)
        )
        self.fusions = nn.ModuleList(
            nn.Sequential(SCPC(width, steps, norm_cfg), SCPC(width, steps, norm_cfg))
            for width, steps in zip(channels, dilations, strict=True)
        )
        # conv_seg predicts from the finest level, these from the four after it.
        self.side_predictions = nn.ModuleList(nn.Conv2d(width, self.out_channels, 1) for width in channels[1:-1])

    def decode(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, channels[i], H_i, W_i) of the six levels, finest first, of the backbone's four."""
        levels = self._transform_inputs(inputs)
        for stage in self.extra_stages:
            levels = [*levels, stage(levels[-1])]
        gate = levels[-1].mean((2, 3), keepdim=True).sigmoid()  # what the whole image says of each channel
        levels = [*levels[:-2], levels[-2] * gate, levels[-1] * gate]
        maps = [self.fusions[-1](self.laterals[-1](levels[-1]))]
        for level, lateral, top, fuse in reversed(
            list(zip(levels[:-1], self.laterals[:-1], self.tops, self.fusions[:-1], strict=True))
        ):
            above = resize(top(maps[0]), level.shape[2:], mode="bilinear", align_corners=self.align_corners)
            maps.insert(0, fuse(torch.cat([lateral(level), above], 1)))
        return maps

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (N, 1, H/4, W/4) of saliency from the backbone's features."""
        return self.cls_seg(self.decode(inputs)[0])

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: dict) -> dict[str, Tensor]:
        """The losses of all five predictions, by name and level (1 is the finest)."""
        predictions = [self.cls_seg, *self.side_predictions]
        losses = {}
        for level, (predict, features) in enumerate(zip(predictions, self.decode(inputs)[:-1], strict=True), 1):
            for name, value in self.loss_by_feat(predict(features), batch_data_samples).items():
                if name != "acc_seg":  # of an argmax, which one channel has not
                    losses[f"{name}_{level}"] = value
        return losses
