"""A VAN can be traced, scripted and exported to PyTorch's operators, and every counter gives the same FLOPs."""

import subprocess
import sys

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

from tests.checkpoints.test_loading import randomise
from van_mm import VAN, fold, get_config
from van_mm.apis.build import build_random_model
from van_mm.ops import library
from van_mm.ops.library import load_library

ARCH = dict(embed_dims=[16, 32, 32, 48], depths=[1, 1, 1, 1], mlp_ratios=[2, 2, 2, 2])  # widths that kernels accept
# Loads every file in a folder, and compares its outputs with those of the original.
LOAD = """
import sys, torch
from pathlib import Path
loaders = dict(trace=torch.jit.load, script=torch.jit.load, export=lambda file: torch.export.load(file).module(),
               fx=lambda file: torch.load(file, weights_only=False))
for file in Path(sys.argv[1]).glob("*.pt2"):
    kind = file.stem.partition("-")[0]
    model = loaders[kind](str(file))
    for inputs, outs in zip(*torch.load(file.with_suffix(".io"))):
        for out, value in zip(model(inputs), outs, strict=True):
            torch.testing.assert_close(out, value, rtol=1e-4, atol=1e-4)
    assert "van_mm::" not in str(model.inlined_graph if kind in ("trace", "script") else model.graph)
assert "van_mm" not in sys.modules
"""


@pytest.fixture(params=["kernels", "no kernels"])
def kernels(request, monkeypatch):
    if request.param == "kernels" and not load_library():
        pytest.skip("the kernels are not compiled")
    monkeypatch.setattr(library, "is_loaded", request.param == "kernels")


def export(model: torch.nn.Module, kind: str, example: torch.Tensor, file: str) -> None:
    if kind == "trace":
        torch.jit.trace(model, example).save(file)
    elif kind == "script":
        torch.jit.script(model).save(file)
    elif kind == "fx":
        torch.save(torch.fx.symbolic_trace(model), file)
    else:
        sizes = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
        torch.export.save(torch.export.export(model, (example,), dynamic_shapes=(sizes,)), file)


def test_export(kernels, tmp_path):
    """The exported models give the same at other sizes, in a process that never imports van_mm."""
    inputs = [torch.rand(2, 3, 64, 96), torch.rand(1, 3, 100, 70), torch.rand(3, 3, 40, 33)]
    for folded in (False, True) if library.is_loaded else (False,):  # loading is slow
        model = randomise(VAN(arch=ARCH, out_indices=(1, 3)))
        model = fold(model) if folded else model
        for kind in ("trace", "script", "fx", "export"):
            file = tmp_path / f"{kind}-{folded}.pt2"
            with torch.no_grad():
                torch.save((inputs, [model(x) for x in inputs]), file.with_suffix(".io"))
                export(model, kind, inputs[0], str(file))
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_every_counter_gives_the_same(kernels):
    """FLOPs of the VAN-B0 classifier of table 5: 0.9 G."""
    model = build_random_model(get_config("cls/van_b0_in1k"))
    image = torch.rand(1, 3, 224, 224)
    by_mmengine = get_model_complexity_info(model, inputs=(image,), show_table=False, show_arch=False)["flops"]
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled), FlopCounterMode(display=False) as counter:
            model(image)
        assert counter.get_total_flops() / 2 == pytest.approx(by_mmengine, rel=0.005)  # two FLOPs for a multiply-add
    # 0.877 G with the biases and norms, which van_mm.analysis.complexity counts and these counters leave out.
    assert by_mmengine == pytest.approx(0.877e9, rel=0.015)
