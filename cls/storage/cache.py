"""The cache folder, for files that can be made again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns CLS_CACHE_DIR, else XDG_CACHE_HOME/cls, else ~/.cache/cls."""
    if os.environ.get('CLS_CACHE_DIR'):
        return Path(os.environ['CLS_CACHE_DIR']).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'cls'
