"""``import van_mm`` registers VAN even without a home folder, with damaged kernels or with broken codebases."""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from van_mm.ops.library import build_library, get_checksum_path, get_library_path, is_complete_library, load_library


def run_python(code: str, *options: str, **variables: str | None) -> subprocess.CompletedProcess:
    """Run code in a new interpreter. An environment variable that is None is removed."""
    env = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        env={name: value for name, value in env.items() if value is not None},
        text=True,
        capture_output=True,
    )


BUILDS = """
    import van_mm
    from mmengine.registry import MODELS
    assert type(MODELS.build(dict(type="van_mm.VAN", arch="b0"))) is van_mm.VAN
"""
NO_HOME = """
    import signal
    del signal.SIGUSR1  # as on Windows
    import pwd
    def getpwuid(uid):
        raise KeyError(uid)
    pwd.getpwuid = getpwuid
"""


def test_without_a_home_folder():
    """The import works without HOME and without an entry in the password database, as in some containers."""
    unset = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"))
    done = run_python(textwrap.dedent(NO_HOME) + textwrap.dedent(BUILDS), **unset)
    assert done.returncode == 0, done.stderr
    compile_kernels = "import runpy; runpy.run_module('van_mm.ops', run_name='__main__')"
    done = run_python(textwrap.dedent(NO_HOME) + compile_kernels, **unset)
    assert done.returncode == 1 and "Set XDG_CACHE_HOME" in done.stderr and "Traceback" not in done.stderr


def test_home_that_cannot_be_written():
    done = run_python(BUILDS, HOME="/proc/nothing", XDG_CACHE_HOME=None)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "van_mm.ops"]
    env = {**os.environ, "XDG_CACHE_HOME": "/proc/nothing"}
    done = subprocess.run(command, env=env, text=True, capture_output=True)
    assert done.returncode == 1 and "/proc/nothing/van_mm cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def cached_library(tmp_path, monkeypatch):
    """The path of the compiled kernels in an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = get_library_path()
    path.parent.mkdir(parents=True)
    return path


NOT_LOADED = """
    import van_mm.models, van_mm.ops.library
    assert not van_mm.ops.library.is_loaded
"""


@pytest.mark.parametrize("keep", [0, 4096, -100], ids=["empty", "first page", "all but 100 bytes"])
def test_truncated_kernels_are_not_loaded(keep, cached_library, monkeypatch):
    """A truncated library is reported, because loading it would end the process with a bus error."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    if not load_library():
        pytest.skip("the kernels are not compiled")
    compiled = get_library_path()
    cached_library.write_bytes(compiled.read_bytes()[:keep])
    shutil.copy(get_checksum_path(compiled), get_checksum_path(cached_library))
    done = run_python(NOT_LOADED, XDG_CACHE_HOME=str(cached_library.parents[1]))
    assert done.returncode == 0 and done.stderr.count("is damaged") == 1, done.stderr
    assert "python -m van_mm.ops" in done.stderr


def test_damaged_kernels_are_compiled_again(cached_library, tmp_path, monkeypatch):
    """A damaged library is replaced. The compiler is a script that copies a file, because g++ takes 20 seconds."""
    (tmp_path / "compiled.so").write_bytes(b"compiled")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {tmp_path / "compiled.so"} "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    cached_library.write_bytes(b"not a library")
    assert build_library() == cached_library
    assert cached_library.read_bytes() == b"compiled" and is_complete_library(cached_library)


def test_kernels_of_another_torch_are_not_loaded(cached_library, tmp_path):
    """A library that needs a symbol missing from this PyTorch is reported."""
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    source = "void symbol_of_another_torch(); struct S { S() { symbol_of_another_torch(); } } s;"
    (tmp_path / "other.cpp").write_text(source)
    command = ["g++", "-shared", "-fPIC", "-Wl,-z,now", str(tmp_path / "other.cpp"), "-o", str(cached_library)]
    subprocess.run(command, check=True)
    get_checksum_path(cached_library).write_text(hashlib.sha256(cached_library.read_bytes()).hexdigest())
    done = run_python(NOT_LOADED)
    assert done.returncode == 0 and done.stderr.count("does not load") == 1, done.stderr


def test_broken_codebases_are_reported_once():
    """Each codebase that fails to import gives one warning when it is imported, and VAN works without it."""
    done = run_python("""
        import importlib.abc, sys

        ERRORS = {
            "mmdet": ImportError("no mmcv._ext"), "mmseg": AssertionError("mmcv==2.2.0 is used"), "mmpose": OSError(5)
        }

        class Broken(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                codebase, _, module = name.partition(".")
                if module == "registry" and codebase in ERRORS:
                    raise ERRORS[codebase]

        sys.meta_path.insert(0, Broken())
        import van_mm
        from contextlib import suppress
        from importlib import import_module
        for codebase, error in ERRORS.items():
            for _ in range(2):
                with suppress(type(error)):
                    import_module(f"{codebase}.registry")
        from mmengine.registry import MODELS
        assert type(MODELS.build(dict(type="van_mm.VAN", arch="b0"))) is van_mm.VAN
    """)
    assert done.returncode == 0, done.stderr
    for codebase in ("mmdet", "mmseg", "mmpose"):
        assert done.stderr.count(f"{codebase} does not import") == 1
    assert "van_mm.utils.check_env" in done.stderr


def test_figures_keep_the_matplotlib_backend(tmp_path):
    done = run_python(
        f"""
        import matplotlib
        matplotlib.use("svg")
        import numpy as np
        import van_mm
        from van_mm.visualization.figures import save_image_grid
        from van_mm.visualization.panels import draw_beside, draw_score_bars
        image = np.zeros((8, 8, 3), np.uint8)
        save_image_grid([[image]], {str(tmp_path / "grid.png")!r})
        assert draw_beside(image, lambda axis: draw_score_bars(axis, [{{"class": "a", "score": 1.0}}])).any()
        assert matplotlib.get_backend() == "svg" and "matplotlib.pyplot" not in sys.modules
    """.replace("import matplotlib\n", "import matplotlib, sys\n", 1)
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "grid.png").stat().st_size > 0
