"""swap_backbone puts a VAN into the upstream configs of the codebases."""

import copy
import json
from types import SimpleNamespace

import mmcv.ops
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from tests.conftest import ROOT
from tests.tools.test_train_test import last_metrics, refused
from van_mm import get_config, swap_backbone
from van_mm.apis.backbone_swap import use_paper_optimizer
from van_mm.apis.backbone_swap_rules import find_backbone_parent, make_van_cfg, match_stages
from van_mm.apis.run_config import get_run_config
from van_mm.utils.errors import UserError

POSE = "mmpose::body_2d_keypoint"
CONFIGS = {  # upstream config: VAN stages that its neck or head reads, and changed keys outside the backbone
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco": ((0, 1, 2, 3), {"model.neck.in_channels"}),
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco": (
        (0, 1, 2, 3),
        {"model.neck.in_channels", "model.data_preprocessor"},
    ),
    "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco": ((1, 2, 3), {"model.neck.in_channels"}),
    "mmdet::detr/detr_r50_8xb2-150e_coco": ((3,), {"model.neck.in_channels"}),
    "mmdet::yolox/yolox_s_8xb8-300e_coco": ((1, 2, 3), {"model.neck.in_channels", "model.data_preprocessor"}),
    "mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco": ((1, 2, 3), {"model.neck.in_channels", "model.data_preprocessor"}),
    "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco": ((1, 2, 3), {"model.neck.in_channels", "model.data_preprocessor"}),
    "mmdet::ssd/ssd300_coco": (
        (1, 2),
        {"model.neck.in_channels", "model.neck.out_channels", "model.bbox_head.in_channels", "find_unused_parameters",
         "model.data_preprocessor"},
    ),
    "mmdet::yolact/yolact_r50_1xb8-55e_coco": ((0, 1, 2, 3), {"model.neck.in_channels"}),
    "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco": (
        (0, 1, 2, 3),
        {"model.detector.neck.in_channels", "model.data_preprocessor"},
    ),
    "mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes": ((0, 1, 2, 3), {"model.neck.in_channels", "load_from"}),
    "mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco": (
        (0, 1, 2, 3),
        {"model.neck.in_channels", "optim_wrapper.constructor"},
    ),
    "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512": (
        (0, 1, 2, 3),
        {"model.decode_head.in_channels", "model.decode_head.c1_in_channels", "model.auxiliary_head.in_channels"},
    ),
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512": ((0, 1, 2, 3), {"model.decode_head.in_channels"}),
    "mmseg::fastfcn/fastfcn_r50-d32_jpu_enc_4xb2-80k_cityscapes-512x1024": (
        (1, 2, 3),
        {"model.neck.in_channels", "model.auxiliary_head.in_channels"},
    ),
    "mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512": (
        (0, 1, 2, 3),
        {"model.decode_head.kernel_generate_head.in_channels", "model.auxiliary_head.in_channels"},
    ),
    "mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680": (
        (1, 2, 3),
        {"model.decode_head.in_channels", "model.decode_head.channels", "model.data_preprocessor"},
    ),
    "mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64": (
        (0, 0, 1, 2, 3),
        {"model.decode_head.in_channels", "model.auxiliary_head.in_channels"},
    ),
    "mmseg::vit/vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512": (
        (0, 1, 2, 3),
        {"model.neck", "model.decode_head.in_channels", "model.auxiliary_head.in_channels"},
    ),
    f"{POSE}/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192": (
        (3,),
        {"model.head.in_channels", "model.head.deconv_out_channels"},
    ),
    f"{POSE}/topdown_heatmap/coco/td-hm_ViTPose-small_8xb64-210e_coco-256x192": (
        (3,),
        {"model.head.in_channels", "model.head.deconv_out_channels", "optim_wrapper.constructor"},
    ),
    f"{POSE}/topdown_heatmap/coco/td-hm-vis_res50_8xb64-210e_coco-aic-256x192-merge": (
        (3,),
        {"model.head.pose_cfg.in_channels"},
    ),
    f"{POSE}/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192": ((3,), set()),  # its head reads the 512 channels of B1
    f"{POSE}/dekr/coco/dekr_hrnet-w32_8xb10-140e_coco-512x512": ((0, 1, 2, 3), {"model.head.in_channels"}),
    "mmpretrain::resnet/resnet50_8xb8_cub": ((3,), {"model.head.in_channels"}),
    "mmpretrain::resnet/resnet50_8xb32_in1k": ((3,), {"model.head.in_channels"}),
    "mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k": ((3,), {"model.neck", "model.head.in_channels"}),
    "mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k": (
        (3,),
        {"model.neck", "model.neck.1.input_features", "model.head.in_channels"},
    ),
}  # fmt: skip

# Keys that change together with a listed key.
UNLISTED = {
    "backbone",
    "decay_rate",
    "decay_type",
    "deconv_kernel_sizes",
    "layer_decay_rate",
    "num_layers",
    "pretrained",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_swapped(name):
    """Every change is listed. A second swap, or a swap through another size, gives the same config.

    ``swap_backbone`` itself runs the new model. B1 has the widths of B2, and half of its blocks.
    """
    cfg = get_config(name)
    before = copy.deepcopy(cfg._cfg_dict)
    changes = swap_backbone(cfg, "b1")
    stages, expected = CONFIGS[name]
    backbone = find_backbone_parent(cfg.model)[1].backbone
    assert (backbone.type, backbone.arch, tuple(backbone.out_indices)) == ("van_mm.VAN", "b1", stages)
    listed = {line.split(":")[0] for line in changes if ": " in line}
    outside = {key for key in listed if ".backbone" not in key and not key.startswith("dropped")}
    assert outside == expected
    for key in changed_keys(before, cfg._cfg_dict):
        assert set(key.split(".")) & UNLISTED or any(key.startswith(prefix) for prefix in listed), key

    swapped = copy.deepcopy(cfg._cfg_dict)
    assert swap_backbone(cfg, "b1") == [] and cfg._cfg_dict == swapped
    if get_config(name).default_scope == "mmseg":  # one codebase is enough, because all share this code
        assert swap_backbone(cfg, "b0") and cfg._cfg_dict != swapped
        swap_backbone(cfg, "b1")
        assert cfg._cfg_dict == swapped


def changed_keys(a, b, path: str = "") -> set[str]:
    """Return the dotted keys at which two configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {
            changed
            for key in a.keys() | b.keys()
            for changed in changed_keys(a.get(key), b.get(key), f"{path}.{key}".strip("."))
        }
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return {changed for i, pair in pairs for changed in changed_keys(*pair, f"{path}.{i}")}
    return set() if a == b else {path}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mmdet::yolox/yolox_s_8xb8-300e_coco", True),  # also where the old backbone starts from random weights
        ("mmpretrain::resnet/resnet50_8xb8_cub", True),
        ("mmpretrain::resnet/resnet50_8xb32_in1k", False),  # pretraining on ImageNet starts from random weights
        ("mmpretrain::convnext/convnext-tiny_32xb128_in1k", False),
    ],
)
def test_pretrained_weights(name, weights):
    cfg = get_config(name)
    swap_backbone(cfg, "b2")
    init_cfg = cfg.model.backbone.get("init_cfg")
    assert init_cfg == (dict(type="Pretrained", checkpoint="van_mm://b2_in1k") if weights else None)


def test_size_aliases():
    cfg = get_config("mmpretrain::resnet/resnet50_8xb8_cub")
    swap_backbone(cfg, "Base")
    assert cfg.model.backbone.arch == "b2" and cfg.model.backbone.init_cfg.checkpoint == "van_mm://b2_in1k"
    assert swap_backbone(cfg, "b2") == []


def test_weights_of_the_old_model_are_removed():
    """``load_from`` and the ``init_cfg`` of the whole model are removed."""
    cfg = get_config("mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20")
    cfg.load_from = "old.pth"
    swap_backbone(cfg, "b4")
    assert cfg.load_from is None and "init_cfg" not in cfg.model
    assert cfg.model.backbone.init_cfg.checkpoint == "van_mm://b4_in22k"
    assert cfg.model.data_preprocessor.to_rgb and "bgr_to_rgb" not in cfg.model.data_preprocessor


def test_frozen_stages_and_norm_eval_are_kept():
    """A completely frozen transformer becomes a completely frozen VAN."""
    cfg = get_config("mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k")
    assert cfg.model.backbone.frozen_stages == 12
    swap_backbone(cfg, "b0")
    assert cfg.model.backbone.frozen_stages == 4
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco")
    swap_backbone(cfg, "b0")
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.norm_eval) == (1, True)


@pytest.mark.parametrize(
    ("backbone", "frozen", "expected"),
    [
        (dict(type="VisionTransformer", arch="deit-t"), 3, 1),
        (dict(type="VisionTransformer", arch="deit-t"), 11, 3),
        (dict(type="VisionTransformer", arch="deit-t"), 2, 0),
        (dict(type="VisionTransformer", arch="deit-t"), -1, -1),
        (dict(type="SwinTransformer", arch="tiny"), 2, 2),
        (dict(type="ResNet", depth=18), 4, 4),
    ],
)
def test_frozen_blocks_become_frozen_stages(backbone, frozen, expected):
    """Transformers such as ViT count blocks. Three of twelve are a quarter, and so is one of VAN's four stages."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        van = make_van_cfg(ConfigDict(backbone, frozen_stages=frozen), "b0", (3,))
    assert van.frozen_stages == expected


def test_contiguous_where_an_operator_needs_it():
    cfg = get_config("mmseg::dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024")  # for batches of two or more images
    assert "model.backbone.contiguous: True" in swap_backbone(cfg, "b0")[-1] and cfg.model.backbone.contiguous


def test_heatmap_size_must_match_the_codec():
    cfg = get_config(f"{POSE}/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192")
    cfg.codec.heatmap_size = (96, 128)
    with pytest.raises(UserError, match="heat maps of VAN are .48, 64., and those of codec.heatmap_size .96, 128."):
        swap_backbone(cfg, "b0")


def test_model_without_cpu_operator_is_not_tried(monkeypatch):
    """A compiled mmcv has some operators for GPUs only."""

    def raise_error(*args, **kwargs):
        raise RuntimeError("masked_im2col_forward_impl: implementation for device cpu not found.")

    monkeypatch.setattr(mmcv.ops.masked_conv, "ext_module", SimpleNamespace(masked_im2col_forward=raise_error))
    cfg = get_config("mmdet::guided_anchoring/ga-rpn_r50-caffe_fpn_1x_coco")
    changes = swap_backbone(cfg, "b0")
    assert changes[-1].startswith("not tried: masked_im2col") and cfg.model.backbone.type == "van_mm.VAN"


def test_configs_of_this_suite_take_another_size():
    cfg = get_config("seg/upernet_van_b2")
    other = get_config("seg/upernet_van_b0")
    assert swap_backbone(cfg, "b2") == []
    swap_backbone(cfg, "b0")
    assert cfg.model.decode_head == other.model.decode_head and cfg.model.auxiliary_head == other.model.auxiliary_head
    assert cfg.model.backbone.arch == "b0" and cfg.model.backbone.init_cfg == other.model.backbone.init_cfg


@pytest.mark.parametrize(
    ("name", "arch", "message"),
    [
        ("mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco", "b0", "roi_head.shared_head .ResLayer. is the last"),
        ("mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco", "b0", "boxes are placed by strides of .16."),
        ("mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco", "b0", "ResNet has dcn inside"),
        ("mmdet::gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco", "b0", "ResNet has plugins inside"),
        ("mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco", "b0", "bbox_head reads 2 alike maps"),
        ("mmdet::detectors/detectors_htc-r50_1x_coco", "b0", "levels of strides .1, 4, 8, 16, 32., VAN has those"),
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco", "b9", "unknown VAN arch 'b9'"),
        ("mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024", "b0", "reads level 0 of BiSeNetV1"),
        ("mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024", "b0", "does not run with VAN"),
        ("mmpose::body_3d_keypoint/video_pose_lift/h36m/video-pose-lift_tcn-27frm-supv_8xb128-160e_h36m", "b0",
         "TCN does not run on an image"),
        ("mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k", "b0", "MAEViT masks what it reads"),
        ("mmpretrain::deit/deit-small-distilled_4xb256_in1k", "b0", "DistilledVisionTransformer gives no feature maps"),
        ("mmpretrain::blip/blip-base_8xb32_nlvr", "b0", "one image backbone; this one has none"),
    ],
)  # fmt: skip
def test_refused_with_a_reason(name, arch, message):
    """A swap that is not possible names the reason and leaves the config unchanged."""
    cfg = get_config(name)
    before = copy.deepcopy(cfg._cfg_dict)
    with pytest.raises(UserError, match=message):
        swap_backbone(cfg, arch)
    assert cfg._cfg_dict == before


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("mmdet::detr/detr_r50_8xb2-150e_coco", "det/mask_rcnn_van_b2_1x_coco"),
        ("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic", "det/mask2former_van_b2_50e_coco_panoptic"),
        ("mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512", "seg/semantic_fpn_van_b2"),
        ("mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512", "seg/upernet_van_b2"),
        ("mmpretrain::resnet/resnet50_8xb8_cub", "cls/van_b4_in22k_cub"),
        ("mmpretrain::resnet/resnet50_8xb32_in1k", "cls/van_b2_in1k"),
    ],
)
def test_paper_optimizer(name, source):
    """The optimizer and the batch size are those of the paper for the task. Gradient clipping is kept."""
    cfg, paper = get_config(name), get_config(source)
    clip = cfg.optim_wrapper.get("clip_grad")
    (line,) = use_paper_optimizer(cfg)
    assert source in line
    for key in ("optimizer", "paramwise_cfg"):
        assert cfg.optim_wrapper.get(key) == paper.optim_wrapper.get(key)
    assert cfg.optim_wrapper.get("clip_grad") == clip
    assert cfg.auto_scale_lr.base_batch_size == paper.auto_scale_lr.base_batch_size


@pytest.mark.parametrize(
    ("backbone", "optim", "name"),
    [("b1", None, "van_b0_in1k_van_b1"), ("b0", "van", "van_b0_in1k"), (None, "van", "van_b0_in1k")],
)
def test_work_dir_names_the_backbone(backbone, optim, name):
    """Runs of one config with two backbones use two work folders."""
    cfg = get_run_config("cls/van_b0_in1k", backbone=backbone, paper_optimizer=optim == "van")
    assert cfg.work_dir == f"./work_dirs/{name}"


def test_stages_match_strides():
    assert match_stages([4, 8, 16, 32]) == (0, 1, 2, 3) and match_stages([8, 16, 32]) == (1, 2, 3)
    assert match_stages([4, 8, 8, 8]) == (0, 1, 2, 3) and match_stages([8]) == match_stages([0]) == (3,)
    assert match_stages([16, 8, 4, 2, 1]) == (0, 0, 1, 2, 3)
    with pytest.raises(UserError, match="strides .4, 8, 16, 32, 64."):
        match_stages([4, 8, 16, 32, 64])


@pytest.mark.parametrize(
    "name", ["mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512", "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco"]
)
def test_trained(name, run_tool, demo_root, tmp_path):
    """A swapped config trains by its name and from the file of --dump, which has the paper's optimizer."""
    swap = ("train", name, "--backbone", "b0")
    done = run_tool(*swap, "--optim", "van", "--dump", tmp_path / "dumped.py")
    assert done.returncode == 0 and "model.backbone: " in done.stdout and "optim_wrapper.optimizer: SGD" in done.stdout
    assert Config.fromfile(tmp_path / "dumped.py").optim_wrapper.optimizer.type == "AdamW"
    demo = ("--demo", "--demo-root", demo_root, "--demo-iters", 1, "--no-validate", "--work-dir", tmp_path / "run")
    options = ("--cfg-options", "train_dataloader.batch_size=2")
    for train in (swap, ("train", tmp_path / "dumped.py")):
        done = run_tool(*train, *demo, *options)
        assert done.returncode == 0 and (tmp_path / "run/iter_1.pth").exists(), done.stdout
        (tmp_path / "run/iter_1.pth").rename(tmp_path / "trained.pth")
    test = ("test", name, tmp_path / "trained.pth", *demo[:3], "--work-dir", tmp_path / "test")
    done = run_tool(*test, "--backbone", "b0", "--out", tmp_path / "metrics.json")
    assert done.returncode == 0 and json.loads((tmp_path / "metrics.json").read_text()), done.stdout
    refused(run_tool(*test), "It has VAN-B0: add --backbone b0")
    refused(run_tool("train", name, "--backbone", "b9"), "--backbone: unknown VAN arch 'b9'")


DEMOS = {  # upstream config: number of demo steps that take one to two minutes on two cores
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco": 200,
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco": 300,
    "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco": 60,
    "mmdet::yolox/yolox_s_8xb8-300e_coco": 300,
    "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco": 280,
    "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512": 80,
    "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512": 250,
    "mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512": 300,
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512": 400,
    f"{POSE}/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192": 350,
    f"{POSE}/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192": 350,
    "mmpretrain::resnet/resnet50_8xb8_cub": 300,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), DEMOS.items())
def test_two_minutes_of_training(name, steps, run_process, tmp_path_factory):
    """The loss falls and the metric is above 0. RTMDet's loss may rise, because it grows with the positives."""
    root, run = tmp_path_factory.getbasetemp() / "whole_demo", tmp_path_factory.mktemp("run")
    demo = ("--demo", "--demo-root", root, "--demo-iters", steps, "--work-dir", run)
    done = run_process(ROOT / "tools/train.py", name, "--backbone", "b0", *demo)
    assert done.returncode == 0, done.stdout
    losses = [line["loss"] for file in run.glob("*/vis_data/scalars.json") for line in map(json.loads, file.open())
              if "loss" in line]  # fmt: skip
    if "rtmdet" not in name:
        assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    metrics = last_metrics(run)
    assert any(metrics[key] > 0 for key in ("mIoU", "coco/bbox_mAP", "coco/AP", "accuracy/top1") if key in metrics)
