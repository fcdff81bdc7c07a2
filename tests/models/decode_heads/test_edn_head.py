"""EDN's head on every backbone it is for."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from van_mm.models.backbones.van import ARCH_SETTINGS, get_arch_settings
from van_mm.models.losses.dice_loss import BinaryDiceLoss

BACKBONES = {
    **{arch: (dict(type="van_mm.VAN", arch=arch), get_arch_settings(arch)["embed_dims"]) for arch in ARCH_SETTINGS},
    "resnet50": (dict(type="mmpretrain.ResNet", depth=50, out_indices=(0, 1, 2, 3)), (256, 512, 1024, 2048)),
    "resnet50_mmdet": (dict(type="mmdet.ResNet", depth=50), (256, 512, 1024, 2048)),
    "swin_t": (dict(type="mmpretrain.SwinTransformer", arch="tiny", out_indices=(0, 1, 2, 3)), (96, 192, 384, 768)),
    "swin_t_mmdet": (dict(type="mmdet.SwinTransformer", convert_weights=False), (96, 192, 384, 768)),
}
BN = dict(type="BN", requires_grad=True)


def segmentor(backbone, in_channels):
    init_default_scope("mmseg")
    head = dict(type="van_mm.EDNHead", in_channels=list(in_channels), norm_cfg=BN)
    test_cfg = ConfigDict(mode="whole")
    return MODELS.build(dict(type="EncoderDecoder", backbone=backbone, decode_head=head, test_cfg=test_cfg))


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes(name):
    """One logit at stride 4, and six maps at 4 to 128; VAN's are built and run without arithmetic."""
    backbone, in_channels = BACKBONES[name]
    with torch.device("meta" if name in ARCH_SETTINGS else "cpu"), torch.no_grad():
        model = segmentor(backbone, in_channels).eval()
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
    model = segmentor(*BACKBONES[name]).train()
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
    (found, _) = model.predict(images, [sample, sample.clone()])
    saliency = found.seg_logits.data
    assert saliency.shape == (1, 35, 50) and saliency.min() >= 0 and saliency.max() <= 1


def test_the_finest_prediction_is_the_result():
    torch.manual_seed(0)
    model = segmentor(*BACKBONES["b0"]).eval()
    features = model.extract_feat(torch.randn(1, 3, 64, 96))
    maps = model.decode_head.decode(features)
    assert torch.equal(model.decode_head(features), model.decode_head.conv_seg(maps[0]))


def test_the_gate_sees_the_whole_image():
    """A change in one corner reaches the opposite one through the added stages alone."""
    torch.manual_seed(0)
    head = segmentor(*BACKBONES["b0"]).decode_head.eval()
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


def test_levels_that_do_not_fit():
    with pytest.raises(ValueError, match="two levels more than in_channels, 5; got 6"):
        segmentor(dict(type="van_mm.VAN", arch="b0"), (32, 64, 160))
