"""Tools report what is wrong with their arguments before they import PyTorch, and import a codebase only once."""

import gc
import sys

from tests.conftest import ROOT
from van_mm.utils.codebases import import_codebase

# A tool that ends before it needs PyTorch, with its arguments and what it prints.
EARLY = """
import contextlib, io, runpy, sys
for line in {lines!r}:
    (name, *args), words = line
    sys.argv = [f"{root}/tools/{{name}}.py", *args]
    sys.path.insert(0, f"{root}/tools")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            print(end)
    assert words in out.getvalue(), out.getvalue()
    assert "torch" not in sys.modules, name
"""
UNKNOWN = "no config 'seg/nowhere'"
LINES = [
    (("train", "seg/nowhere"), UNKNOWN),
    (("test", "seg/nowhere", "a.pth"), UNKNOWN),
    (("infer", "seg/nowhere", "a.pth", __file__), UNKNOWN),
    (("deploy/export_onnx", "seg/nowhere", "a.pth"), UNKNOWN),
    (("misc/check_dataset", "seg/nowhere"), UNKNOWN),
    (("visualization/browse_dataset", "seg/nowhere"), UNKNOWN),
    (("train", "seg/upernet_van_b0", "--dump", "mine.py"), "mmseg's EncoderDecoder with VAN b0, on ADE20KDataset"),
]


def test_mistakes_are_reported_before_pytorch_is_imported(run_process, tmp_path):
    (tmp_path / "early.py").write_text(EARLY.format(lines=LINES, root=str(ROOT)))
    done = run_process(tmp_path / "early.py")
    assert done.returncode == 0, done.stdout
    assert "crop_size = (" in (tmp_path / "mine.py").read_text()  # formatted


def test_codebase_is_imported_without_garbage_collection(tmp_path, monkeypatch):
    """A part that does not import is left to the registries, and the collector is on again."""
    package = tmp_path / "mmfake"
    package.mkdir()
    for name in ("__init__", "evaluation"):
        (package / f"{name}.py").touch()
    (package / "models.py").write_text("import gc\nwas_collecting = gc.isenabled()\n")
    (package / "datasets.py").write_text("raise OSError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    frozen = []
    for _ in range(2):
        import_codebase("mmfake")
        assert gc.isenabled() and frozen == [1]
    assert sys.modules["mmfake.models"].was_collecting is False
    assert "mmfake.evaluation" in sys.modules and "mmfake.datasets" not in sys.modules
    for name in [name for name in sys.modules if name.startswith("mmfake")]:
        monkeypatch.delitem(sys.modules, name)
