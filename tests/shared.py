"""Paths of lists, images and weights outside of this repository.

Tests that need them are skipped if they are missing.
"""

import os
from pathlib import Path

SHARED = Path(os.environ.get('CLS_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
