"""Mixed precision with bfloat16 on the CPU."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from van_mm import VAN
from van_mm.engine.optimizers.bf16_optim_wrapper import BFloat16OptimWrapper
from van_mm.models.utils.autocast import autocast_backbone
from van_mm.utils.codebases import has_compiled_operators

SMALL = dict(embed_dims=[16] * 4, depths=[1] * 4, mlp_ratios=[2] * 4)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = VAN(arch=SMALL, out_indices=(3,))
        self.backbone.init_weights()
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (features,) = self.backbone(x)
        return features, self.head(features.mean((2, 3)))


@pytest.mark.parametrize("backbone_only", [False, True])
def test_precision(backbone_only):
    """Only the computation is bfloat16: the input, the weights and, with backbone_only, the head stay float32."""
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 3, 64, 64)
    wrapper = BFloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), 0.1), backbone_only=backbone_only)
    dtypes = []
    model.backbone.patch_embed1.proj.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    exact = model(x)[1]
    with wrapper.optim_context(model):
        _, scores = model(x)
    assert dtypes == [torch.float32, torch.bfloat16]
    assert scores.dtype == (torch.float32 if backbone_only else torch.bfloat16)
    assert (scores - exact).abs().max() < 3e-2
    before = model.head.weight.clone()
    wrapper.update_params(scores.float().square().sum())
    assert not torch.equal(model.head.weight, before) and model.head.weight.dtype == torch.float32
    assert model(x)[1].dtype == torch.float32 and not model.backbone._forward_hooks


def test_autocast_ends_after_an_error():
    model = Model()
    wrapper = BFloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), 0.1), backbone_only=True)
    with pytest.raises(RuntimeError), wrapper.optim_context(model):
        model(torch.randn(2, 5, 64, 64))
    assert not torch.is_autocast_enabled("cpu") and not model.backbone._forward_pre_hooks


class Outputs(nn.Module):
    """A backbone that returns what a function makes of its map and the map's indices."""

    def __init__(self, arrange) -> None:
        super().__init__()
        self.conv, self.arrange = nn.Conv2d(3, 4, 1), arrange

    def forward(self, x: torch.Tensor):
        x = self.conv(x)
        return self.arrange(x, x.argmax(1))


@pytest.mark.parametrize(
    "arrange",
    [lambda x, i: x, lambda x, i: (x, i), lambda x, i: [x, (x, i)], lambda x, i: dict(map=x, index=i, size=None)],
    ids=["tensor", "tuple", "nested list", "dict"],
)
def test_backbone_keeps_the_structure_of_its_outputs(arrange):
    """A tensor stays one tensor, and is not split along the batch. Only maps of half precision change."""
    backbone, x = Outputs(arrange), torch.randn(2, 3, 8, 8)
    exact = backbone(x)
    with autocast_backbone(backbone, torch.bfloat16):
        outputs = backbone(x)
    leaves, spec = tree_flatten(outputs)
    exact_leaves, exact_spec = tree_flatten(exact)
    assert spec == exact_spec
    for a, b in zip(leaves, exact_leaves, strict=True):
        assert a is b is None or (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize(
    "config", ["seg/upernet_van_b2", "pose/simplebaseline_van_b2_coco_256x192", "det/mask_rcnn_van_b2_1x_coco"]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="--amp uses float16 on a GPU")
def test_tool(config, run_tool, demo_root):
    done = run_tool("train", config, "--demo", "--demo-root", demo_root, "--demo-iters", 2, "--no-validate", "--amp")
    assert done.returncode == 0 and "loss: " in done.stdout, done.stdout
    assert "BFloat16OptimWrapper" in done.stdout
    # Only a head whose operators do not take bfloat16 stays in float32.
    in_float32 = config.startswith("pose/") or (config.startswith("det/mask_rcnn") and has_compiled_operators())
    assert f"backbone_only={in_float32}" in done.stdout
