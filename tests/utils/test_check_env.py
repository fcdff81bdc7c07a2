"""The environment report passes here, and its exit code is nonzero if something required is missing."""

import sys

from van_mm.utils import check_env


def test_this_environment_passes(capsys):
    assert check_env.main() == 0
    out = capsys.readouterr().out
    for name in ("torch", "mmengine", "mmcv.ops", "mmpretrain", "mmdet", "mmseg", "mmpose", "van_mm"):
        line = next(line for line in out.splitlines() if line.split()[0] == name)
        assert line.endswith("ok"), line


def test_missing_ops_and_old_versions_are_reported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv.ops", None)  # makes its import fail
    monkeypatch.setattr(check_env, "version", lambda name: "0.1" if name == "mmdet" else "1.2.0")
    assert check_env.main() == 1
    out = capsys.readouterr().out
    assert "mmdet           0.1           outside the tested range 3.3.0" in out
    assert "can't run" in out and "built without its ops" in out


def test_at_least_one_codebase_is_needed(capsys, monkeypatch):
    get_installed_version = check_env.get_installed_version

    def check_with_only(*codebases):
        hidden = {"mmdet", "mmsegmentation", "mmpose", "mmpretrain"} - set(codebases)
        monkeypatch.setattr(
            check_env,
            "get_installed_version",
            lambda names: None if set(names) & hidden else get_installed_version(names),
        )
        return check_env.main()

    assert check_with_only("mmsegmentation") == 0
    assert "can run: mmseg." in capsys.readouterr().out
    assert check_with_only() == 1
