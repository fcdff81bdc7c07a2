"""Copy configs, tools and model-index.yml into the built package; pyproject.toml declares everything else.

Installed MMLab packages have these files below ``.mim``, where ``mim`` and ``van_mm.get_config`` look for them.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithMim(build_py):
    """Build the package with its ``.mim`` folder. Editable installs read the files from the checkout instead."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / "van_mm" / ".mim"
        shutil.rmtree(mim, ignore_errors=True)
        for name in ("configs", "tools"):
            shutil.copytree(HERE / name, mim / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HERE / "model-index.yml", mim)


setup(cmdclass={"build_py": BuildWithMim})
