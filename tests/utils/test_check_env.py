"""The environment report passes here, and its exit code is nonzero if something required is missing."""

import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from van_mm.utils import check_env


def test_this_environment_passes(capsys):
    assert check_env.main() == 0
    out = capsys.readouterr().out
    for name in ("torch", "mmengine", "mmcv.ops", "mmpretrain", "mmdet", "mmseg", "mmpose", "van_mm"):
        line = next(line for line in out.splitlines() if line.split()[0] == name)
        assert " ok" in line, line


@pytest.mark.parametrize(
    "loader, origin",
    [(ExtensionFileLoader("mmcv._ext", "_ext.so"), "compiled"), (None, "PyTorch and torchvision (mmcv-torchops 0.2)")],
)
def test_origin_of_the_operators(loader, origin, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv._ext", SimpleNamespace(__spec__=ModuleSpec("mmcv._ext", loader)))
    monkeypatch.setattr(check_env, "version", lambda name: "0.2")
    assert check_env.describe_operators() == origin


def test_a_fork_is_known(capsys, monkeypatch):
    """A distribution of OneDL's fork has its own tested versions and is named."""
    installed = {"onedl-mmcv": "2.3.6", "onedl-mmdetection": "3.3.0"}

    def version(name):
        if name in installed:
            return installed[name]
        raise PackageNotFoundError

    monkeypatch.setattr(check_env, "version", version)
    check_env.main()
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["mmcv"].split()[1:] == ["2.3.6", "ok", "(onedl-mmcv)"]
    assert "outside the tested range 3.5 <= version < 3.6 (onedl-mmdetection)" in lines["mmdet"]


def test_missing_ops_and_old_versions_are_reported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv.ops", None)  # makes its import fail
    monkeypatch.setattr(check_env, "version", lambda name: "0.1" if name == "mmdet" else "1.2.0")
    assert check_env.main() == 1
    out = capsys.readouterr().out
    assert "mmdet           0.1           outside the tested range 3.3.0" in out
    assert "can't run" in out and "install packages/mmcv-torchops" in out


def test_at_least_one_codebase_is_needed(capsys, monkeypatch):
    find_distribution = check_env.find_distribution

    def check_with_only(*codebases):
        hidden = {"mmdet", "mmsegmentation", "mmpose", "mmpretrain"} - set(codebases)
        monkeypatch.setattr(
            check_env,
            "find_distribution",
            lambda names: None if set(names) & hidden else find_distribution(names),
        )
        return check_env.main()

    assert check_with_only("mmsegmentation") == 0
    assert "can run: mmseg." in capsys.readouterr().out
    assert check_with_only() == 1
