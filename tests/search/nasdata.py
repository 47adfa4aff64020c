"""Tables of trained architectures in the folder CLS_NASDATA; see configs/search/README.md."""

import os
from pathlib import Path

import pytest


def file(name: str) -> Path:
    """Returns a file of the folder; skips the test when there is no such folder."""
    folder = os.environ.get('CLS_NASDATA', '')
    if not folder:
        pytest.skip('CLS_NASDATA, the folder with tables of trained architectures, is not set')
    return Path(folder) / name
