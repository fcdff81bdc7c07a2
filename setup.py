"""Everything is declared in pyproject.toml, but for configs, tools and model-index.yml: an installed MMLab package has
them below ``.mim``, where ``mim`` and ``van_mm.get_config`` look for them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithMim(build_py):
    """Copies them into what is built; an editable install reads them from the checkout."""

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
