"""The environment report: true here, and non-zero where something needed is missing."""

import sys

from van_mm.utils import check_env


def test_this_environment_passes(capsys):
    assert check_env.main() == 0
    out = capsys.readouterr().out
    for name in ("torch", "mmengine", "mmcv.ops", "mmpretrain", "mmdet", "mmseg", "mmpose", "van_mm"):
        line = next(line for line in out.splitlines() if line.split()[0] == name)
        assert line.endswith("ok"), line


def test_missing_ops_and_old_versions_are_told(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv.ops", None)  # makes its import fail
    monkeypatch.setattr(check_env, "version", lambda name: "0.1" if name == "mmdet" else "1.2.0")
    assert check_env.main() == 1
    out = capsys.readouterr().out
    assert "mmdet           0.1           outside the tested range 3.3.0" in out
    assert "can't run" in out and "built without its ops" in out


def test_a_codebase_is_enough_but_needed(capsys, monkeypatch):
    real = check_env.get_installed_version

    def only(*kept):
        hidden = {"mmdet", "mmsegmentation", "mmpose", "mmpretrain"} - set(kept)
        monkeypatch.setattr(
            check_env, "get_installed_version", lambda names: None if set(names) & hidden else real(names)
        )
        return check_env.main()

    assert only("mmsegmentation") == 0
    assert "can run: mmseg." in capsys.readouterr().out
    assert only() == 1
