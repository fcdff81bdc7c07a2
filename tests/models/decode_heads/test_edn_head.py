"""EDN's head works on VAN, ResNet and Swin."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from van_mm.models.backbones.van import ARCH_SETTINGS, get_arch_settings
from van_mm.models.decode_heads.edn_head import EDNHead
from van_mm.models.losses.dice_loss import BinaryDiceLoss

BACKBONES = {
    **{arch: (dict(type="van_mm.VAN", arch=arch), get_arch_settings(arch)["embed_dims"]) for arch in ARCH_SETTINGS},
    "resnet50": (dict(type="mmpretrain.ResNet", depth=50, out_indices=(0, 1, 2, 3)), (256, 512, 1024, 2048)),
    "resnet50_mmdet": (dict(type="mmdet.ResNet", depth=50), (256, 512, 1024, 2048)),
    "swin_t": (dict(type="mmpretrain.SwinTransformer", arch="tiny", out_indices=(0, 1, 2, 3)), (96, 192, 384, 768)),
    "swin_t_mmdet": (dict(type="mmdet.SwinTransformer", convert_weights=False), (96, 192, 384, 768)),
}
BN = dict(type="BN", requires_grad=True)
# The decoder of EDN's release with the backbone P2T-Small (models/model.py:73-75 and 178-195), finest level first:
# channels of the level's own features and of their lateral convolution, of the next coarser map and of its convolution,
# of the SCPC blocks and of their four groups; then the parameters of the lateral convolution, of the convolution of the
# coarser map, of the two SCPC blocks, and of the prediction.
#
# A lateral convolution from c to d channels has c * d weights, d biases, and 2 * d parameters of its batch norm, and so
# has the convolution of the coarser map: 64 * 16 + 3 * 16 = 1072. An SCPC block of c channels and w a group has no
# biases: 4 * c * w + 8 * w for the split, 4 * (9 * w * w + 2 * w) for the groups, 4 * w * c + 2 * c for the merge. With
# c = 32, w = 32 * 32 // 64 = 16, this is 2176 + 9344 + 2112 = 13632. Other levels have w = 24 * c // 64. A prediction
# has c + 1 parameters.
OFFICIAL_LEVELS = [
    (64, 16, 64, 16, 32, 16, 1072, 1072, 27264, 33),
    (128, 32, 128, 32, 64, 24, 4192, 4192, 67072, 65),
    (320, 64, 256, 64, 128, 48, 20672, 16576, 266240, 129),
    (512, 128, 128, 128, 256, 96, 65920, 16768, 1060864, 257),
    (256, 64, 128, 64, 128, 48, 16576, 8384, 266240, 129),
    (256, 128, None, 0, 128, 48, 33152, 0, 266240, 0),
]
# The added stages (models/model.py:80-88) have two 3x3 convolutions to 256 channels with biases and batch norm:
# 9 * 512 * 256 + 3 * 256 and 9 * 256 * 256 + 3 * 256, then twice the latter.
OFFICIAL_EXTRA_STAGES = [1771008, 1181184]
OFFICIAL_HEAD = 5095301  # all of the above
INERT_BIASES = 1760  # 432 of laterals, 304 of coarser maps, 4 * 256 of added stages: batch norm cancels them, none here


def build_segmentor(backbone, in_channels):
    init_default_scope("mmseg")
    head = dict(type="van_mm.EDNHead", in_channels=list(in_channels), norm_cfg=BN)
    test_cfg = ConfigDict(mode="whole")
    return MODELS.build(dict(type="EncoderDecoder", backbone=backbone, decode_head=head, test_cfg=test_cfg))


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes(name):
    """The head returns one logit map at stride 4, from six maps at strides 4 to 128.

    The VANs run on the meta device, which computes shapes only.
    """
    backbone, in_channels = BACKBONES[name]
    with torch.device("meta" if name in ARCH_SETTINGS else "cpu"), torch.no_grad():
        model = build_segmentor(backbone, in_channels).eval()
        features = model.extract_feat(torch.empty(1, 3, 384, 384))
        maps = model.decode_head.decode(features)
        assert [tuple(m.shape[1:]) for m in maps] == [
            (width, 384 // stride, 384 // stride)
            for width, stride in zip((32, 64, 128, 256, 128, 128), (4, 8, 16, 32, 64, 128), strict=True)
        ]
        assert model.decode_head(features).shape == (1, 1, 96, 96)


@pytest.mark.parametrize("name", ["b0", "resnet50", "swin_t_mmdet"])
def test_loss_and_prediction(name):
    torch.manual_seed(0)
    model = build_segmentor(*BACKBONES[name]).train()
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 70, 100, dtype=torch.long)))
    sample.gt_sem_seg.data[:, 10:40, 20:60] = 1
    sample.set_metainfo(dict(img_shape=(70, 100), ori_shape=(35, 50)))
    images = torch.randn(2, 3, 70, 100)
    losses = model.loss(images, [sample, sample])
    assert sorted(losses) == [f"decode.loss_{kind}_{level}" for kind in ("ce", "dice") for level in range(1, 6)]
    sum(losses.values()).backward()
    unused = [n for n, p in model.decode_head.named_parameters() if p.grad is None]
    assert not unused
    model.eval()
    (prediction, _) = model.predict(images, [sample, sample.clone()])
    saliency = prediction.seg_logits.data
    assert saliency.shape == (1, 35, 50) and saliency.min() >= 0 and saliency.max() <= 1


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_layers_are_those_of_the_release():
    """Each level has the shapes and parameters of the release, less the biases before batch norm."""
    with torch.device("meta"):
        head = build_segmentor(*BACKBONES["b1"]).decode_head
    predictions = [head.conv_seg, *head.side_predictions]
    assert len(predictions) == 5
    for level, row in enumerate(OFFICIAL_LEVELS):
        own, lateral, coarser, top, width, group, *parameters = row
        assert tuple(head.laterals[level].conv.weight.shape) == (lateral, own, 1, 1)
        assert count(head.laterals[level]) == parameters[0] - lateral
        if coarser:
            assert tuple(head.tops[level].conv.weight.shape) == (top, coarser, 1, 1)
            assert count(head.tops[level]) == parameters[1] - top
            assert count(predictions[level]) == parameters[3]
        assert len(head.fusions[level]) == 2
        for block in head.fusions[level]:
            assert tuple(block.split.conv.weight.shape) == (4 * group, width, 1, 1)
            assert [tuple(b.conv.weight.shape) for b in block.branches] == [(group, group, 3, 3)] * 4
            assert tuple(block.merge.conv.weight.shape) == (width, 4 * group, 1, 1)
        assert count(head.fusions[level]) == parameters[2]
    assert [count(stage) + 2 * 256 for stage in head.extra_stages] == OFFICIAL_EXTRA_STAGES
    assert sum(sum(row[-4:]) for row in OFFICIAL_LEVELS) + sum(OFFICIAL_EXTRA_STAGES) == OFFICIAL_HEAD
    assert count(head) == OFFICIAL_HEAD - INERT_BIASES == 5093541
    dilations = [[branch.conv.dilation[0] for branch in fusion[0].branches] for fusion in head.fusions]
    assert dilations == [[1, 2, 4, 8]] * 2 + [[1, 2, 3, 4]] * 2 + [[1, 1, 1, 1]] * 2


@pytest.mark.parametrize(("arch", "backbone", "total"), [("b1", 13348800, 18442341), ("b2", 26065472, 31159013)])
def test_parameters_of_table_17(arch, backbone, total):
    """VAN without its classifier plus the head."""
    with torch.device("meta"):
        model = build_segmentor(*BACKBONES[arch])
    assert (count(model.backbone), count(model)) == (backbone, total) == (backbone, backbone + 5093541)


def test_losses_have_equal_weights():
    """All five predictions count once, as binary cross-entropy and Dice (scripts/train.py:20-43 of the release)."""
    torch.manual_seed(0)
    head = build_segmentor(*BACKBONES["b0"]).decode_head.train()
    features = [torch.randn(2, c, 64 // s, 64 // s) for c, s in zip((32, 64, 160, 256), (4, 8, 16, 32), strict=True)]
    truth = torch.zeros(2, 1, 64, 64, dtype=torch.long)
    truth[:, :, 8:40, 16:50] = 1
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask)) for mask in truth]
    losses = head.loss(features, samples, {})
    maps, target = head.decode(features), truth.float()
    for level, predict in enumerate([head.conv_seg, *head.side_predictions], 1):
        logits = F.interpolate(predict(maps[level - 1]), (64, 64), mode="bilinear", align_corners=False)
        saliency = logits.sigmoid()
        dice = (2 * (saliency * target).sum() + 1e-5) / (saliency.sum() + target.sum() + 1e-5)
        bce = F.binary_cross_entropy(saliency, target)
        assert losses[f"loss_ce_{level}"].item() == pytest.approx(bce.item(), rel=1e-4)
        assert losses[f"loss_dice_{level}"].item() == pytest.approx(1 - dice.item(), rel=1e-4)


def test_the_finest_prediction_is_the_result():
    torch.manual_seed(0)
    model = build_segmentor(*BACKBONES["b0"]).eval()
    features = model.extract_feat(torch.randn(1, 3, 64, 96))
    maps = model.decode_head.decode(features)
    assert torch.equal(model.decode_head(features), model.decode_head.conv_seg(maps[0]))


def test_a_corner_affects_the_opposite_corner():
    """A change in one corner reaches the opposite corner, which only the two extra stages make possible."""
    torch.manual_seed(0)
    head = build_segmentor(*BACKBONES["b0"]).decode_head.eval()
    features = [torch.randn(1, c, 512 // s, 512 // s) for c, s in zip((32, 64, 160, 256), (4, 8, 16, 32), strict=True)]
    changed = [*features[:-1], features[-1].clone()]
    changed[-1][..., 0, 0] += 100
    assert (head(changed) - head(features))[..., -1, -1].abs().item() > 0


def test_dice_by_hand():
    loss = BinaryDiceLoss(eps=0)
    logits = torch.tensor([0.0, 100.0, -100.0, 100.0]).view(1, 1, 2, 2)  # 1/2, 1, 0, 1
    label = torch.tensor([[[1, 1], [0, 255]]])
    assert loss(logits, label).item() == pytest.approx(1 - 2 * 1.5 / (1.5 + 2))
    assert loss(logits, label, weight=torch.tensor([[[0.0, 1, 1, 1]]]).view(1, 2, 2)).item() == pytest.approx(0)
    wrong = F.one_hot(torch.tensor([[0, 1]])).float() * 200 - 100
    assert BinaryDiceLoss(2.0)(wrong[None], torch.zeros(1, 2, 2).long()).item() == pytest.approx(2, abs=1e-4)


def test_wrong_number_of_levels():
    with pytest.raises(ValueError, match="two levels more than in_channels, 5; got 6"):
        build_segmentor(dict(type="van_mm.VAN", arch="b0"), (32, 64, 160))
    with pytest.raises(ValueError, match="6 dilations and 5 base_widths"):
        EDNHead((32, 64, 160, 256), base_widths=(24,) * 5, norm_cfg=BN)
