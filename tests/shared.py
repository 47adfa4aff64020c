"""Where lists, images and weights lie that are no part of this repository.

Tests that want them skip where they are absent.
"""

import os
from pathlib import Path

SHARED = Path(os.environ.get('CLS_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
