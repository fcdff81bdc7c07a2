"""All four codebases build the same VAN class, and each codebase is optional."""

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_scoped_name_builds_without_importing_van_mm():
    run("""
        import importlib, sys
        for codebase in ("mmpretrain", "mmdet", "mmseg", "mmpose"):
            models = importlib.import_module(f"{codebase}.registry").MODELS
            model = models.build(dict(type="van_mm.VAN", arch="b0"))
            assert type(model).__module__ == "van_mm.models.backbones.van", codebase
    """)


def test_unscoped_name():
    run("""
        import van_mm
        from mmdet.registry import MODELS as mmdet_models
        from mmpose.registry import MODELS as mmpose_models
        from mmpretrain.registry import MODELS as mmpretrain_models
        from mmseg.registry import MODELS as mmseg_models

        for models in (mmdet_models, mmpose_models, mmseg_models):
            assert type(models.build(dict(type="VAN", arch="b0"))) is van_mm.VAN
        assert mmpretrain_models.get("VAN").__module__.startswith("mmpretrain")
    """)


HIDE = """
    import importlib.abc, importlib.util, sys

    class Hide(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in HIDDEN:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    HIDDEN = {hidden!r}
    sys.meta_path.insert(0, Hide())
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *a: None if name in HIDDEN else find_spec(name, *a)
"""
HEADS = {
    "seg/upernet_van_b2": ("mmseg", ("mmpretrain", "mmdet", "mmpose")),
    "det/retinanet_van_b0_1x_coco": ("mmdet", ("mmpretrain", "mmseg", "mmpose")),
    "cls/van_b2_in1k": ("mmpretrain", ("mmdet", "mmseg", "mmpose")),
    "pose/simplebaseline_van_b2_coco_256x192": ("mmpose", ("mmpretrain", "mmseg")),  # mmpose 1.3 imports mmdet
}


@pytest.mark.parametrize("config", HEADS)
def test_config_builds_without_other_codebases(config):
    codebase, hidden = HEADS[config]
    run(
        textwrap.dedent(HIDE.replace("{hidden!r}", repr(hidden)))
        + textwrap.dedent(f"""
        import torch
        import van_mm
        from mmengine.config import Config
        from mmengine.registry import init_default_scope, MODELS
        from van_mm.apis.configs import find_config
        cfg = Config.fromfile(find_config("{config}"))
        init_default_scope("{codebase}")
        with torch.device("meta"):
            model = MODELS.build(cfg.model)
        assert type(model.backbone) is van_mm.VAN
        assert not set({hidden!r}) & set(sys.modules)
        """)
    )
