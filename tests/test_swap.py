"""VAN under configs of the codebases that know nothing of it."""

import argparse
import copy

import pytest
from mmengine.config import Config

from tests.tools.test_train_test import refused
from van_mm import get_config, swap_backbone
from van_mm.errors import UserError
from van_mm.launch import load_config
from van_mm.swap import check_swapped, stages_of

CONFIGS = {  # upstream config: the VAN stages that it reads
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco": (0, 1, 2, 3),
    "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco": (1, 2, 3),
    "mmdet::detr/detr_r50_8xb2-150e_coco": (3,),
    "mmdet::yolox/yolox_s_8xb8-300e_coco": (1, 2, 3),
    "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco": (1, 2, 3),
    "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512": (0, 1, 2, 3),
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512": (0, 1, 2, 3),
    "mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192": (3,),
    "mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192": (3,),
    "mmpretrain::resnet/resnet50_8xb8_cub": (3,),
    "mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k": (3,),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_swapped(name):
    """It runs; nothing but what is listed is another; twice is as once, and by way of another size too."""
    cfg = get_config(name)
    before = copy.deepcopy(cfg._cfg_dict)
    changes = swap_backbone(cfg, "b0")
    check_swapped(cfg)
    assert (cfg.model.backbone.type, cfg.model.backbone.arch) == ("van_mm.VAN", "b0")
    assert tuple(cfg.model.backbone.out_indices) == CONFIGS[name]
    assert {key: value for key, value in cfg._cfg_dict.items() if key != "model"} == {
        key: value for key, value in before.items() if key != "model"
    }
    listed = {line.split(":")[0] for line in changes}
    assert {
        path for path in differing(before.model, cfg.model, "model") if path.split("model.")[1] != "backbone"
    } <= listed

    once = copy.deepcopy(cfg._cfg_dict)
    assert swap_backbone(cfg, "b0") == [] and cfg._cfg_dict == once
    assert swap_backbone(cfg, "b2") and cfg._cfg_dict != once
    swap_backbone(cfg, "b0")
    assert cfg._cfg_dict == once


def differing(a: dict, b: dict, path: str) -> set[str]:
    """Keys whose values differ, the backbone's as one."""
    found = set()
    for key in set(a) | set(b):
        here = f"{path}.{key}"
        if key in a and key in b and isinstance(a[key], dict) and isinstance(b[key], dict) and key != "backbone":
            found |= differing(a[key], b[key], here)
        elif isinstance(a.get(key), list) and all(isinstance(one, dict) for one in a[key]) and key in b:
            for i, (one, other) in enumerate(zip(a[key], b[key], strict=True)):
                found |= differing(one, other, f"{here}.{i}")
        elif a.get(key) != b.get(key) and key not in ("pretrained", "deconv_kernel_sizes"):
            found.add(here)
    return found


def test_our_own_take_another_size():
    cfg = get_config("seg/upernet_van_b2")
    other = get_config("seg/upernet_van_b0")
    assert swap_backbone(cfg, "b2") == []
    swap_backbone(cfg, "b0")
    assert cfg.model.decode_head == other.model.decode_head and cfg.model.auxiliary_head == other.model.auxiliary_head
    assert cfg.model.backbone.arch == "b0" and cfg.model.backbone.init_cfg == other.model.backbone.init_cfg


@pytest.mark.parametrize(
    ("name", "arch", "words"),
    [
        ("mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco", "b0", "roi_head.shared_head .ResLayer. is the last"),
        ("mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco", "b0", "ResNet has dcn"),
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco", "b9", "unknown VAN arch 'b9'"),
    ],
)
def test_refused_with_a_reason(name, arch, words):
    cfg = get_config(name)
    before = copy.deepcopy(cfg._cfg_dict)
    with pytest.raises(UserError, match=words):
        swap_backbone(cfg, arch)
    assert cfg._cfg_dict == before


@pytest.mark.parametrize(
    ("backbone", "optim", "name"),
    [("b1", None, "van_b0_in1k_van_b1"), ("b0", "van", "van_b0_in1k"), (None, "van", "van_b0_in1k")],
)
def test_work_dir_is_the_backbones(backbone, optim, name):
    """Results of a config are not mixed with those of the same one around another backbone."""
    args = argparse.Namespace(
        config="cls/van_b0_in1k", backbone=backbone, optim=optim, dump=None, demo=False, demo_iters=None, work_dir=None,
        launcher="none", local_rank=0, cfg_options={},
    )  # fmt: skip
    assert load_config(args).work_dir == f"./work_dirs/{name}"


def test_levels():
    assert stages_of([4, 8, 16, 32]) == (0, 1, 2, 3) and stages_of([8, 16, 32]) == (1, 2, 3)
    assert stages_of([4, 8, 8, 8]) == (0, 1, 2, 3) and stages_of([8]) == stages_of([0]) == (3,)
    with pytest.raises(UserError, match="5 levels"):
        stages_of([4, 8, 16, 32, 64])


@pytest.mark.parametrize(
    "name", ["mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512", "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco"]
)
def test_trained(name, run_tool, demo_root, tmp_path):
    """By its name, and by the config that --dump leaves; with the paper's optimiser."""
    swap = ("train", name, "--backbone", "b0")
    done = run_tool(*swap, "--optim", "van", "--dump", tmp_path / "dumped.py")
    assert done.returncode == 0 and "model.backbone: " in done.stdout and "optim_wrapper: SGD" in done.stdout
    assert Config.fromfile(tmp_path / "dumped.py").optim_wrapper.optimizer.type == "AdamW"
    demo = ("--demo", "--demo-root", demo_root, "--demo-iters", 1, "--no-validate", "--work-dir", tmp_path / "run")
    options = ("--cfg-options", "train_dataloader.batch_size=2")
    for train in (swap, ("train", tmp_path / "dumped.py")):
        done = run_tool(*train, *demo, *options)
        assert done.returncode == 0 and (tmp_path / "run/iter_1.pth").exists(), done.stdout
        (tmp_path / "run/iter_1.pth").unlink()
    refused(run_tool("train", name, "--backbone", "b9"), "--backbone: unknown VAN arch 'b9'")
