"""The wheel holds the package with its data, and configs, tools and model-index.yml below ``.mim``."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT
from van_mm import list_configs
from van_mm.paper.tables import load_paper

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
PRINT_CONTENTS = """
import van_mm
from van_mm.paper.tables import load_paper
print(van_mm.__file__)
cfg = van_mm.get_config("seg/upernet_van_b2")
print(len(van_mm.list_configs()), cfg.model.backbone.type, len(load_paper()["tables"]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel, which is built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = ".*", "data", "work_dirs", "build", "dist", "*.egg-info", "__pycache__"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*ignored))
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_contents(installed):
    mim = installed / "van_mm/.mim"
    assert {f"configs/{name}.py" for name in list_configs()} <= {str(p.relative_to(mim)) for p in mim.rglob("*.py")}
    for file in ("model-index.yml", "configs/seg/metafile.yml", "tools/train.py", "tools/dist_train.sh"):
        assert (mim / file).is_file()
    for file in (
        "checkpoints/model_zoo.json",
        "paper/paper.yml",
        "demo/coco_categories.json",
        "ops/kernels.cpp",
        "ops/lanes.h",
    ):
        assert (installed / "van_mm" / file).is_file()
    assert not (installed / "tests").exists()


def test_configs_are_found_without_a_checkout(installed, tmp_path):
    command = [sys.executable, "-c", PRINT_CONTENTS]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, counts = done.stdout.split("\n")[:2]
    assert (
        file.startswith(str(installed)) and counts == f"{len(list_configs())} van_mm.VAN {len(load_paper()['tables'])}"
    )
