"""The generated documentation is up to date."""

import pytest

from tests.conftest import ROOT
from van_mm.paper.docs import render_docs

pytestmark = pytest.mark.xdist_group("paper tables")  # runs in one process, which counts each model once


def test_generated_files_are_up_to_date():
    """Generated files match their sources; `python tools/analysis/paper_tables.py --update-docs` updates them."""
    for name, text in render_docs().items():
        assert (ROOT / name).read_text() == text, name
