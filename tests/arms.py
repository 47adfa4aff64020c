"""Every arm of every config, for the tests that iterate over them."""

import functools
import os
import re
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from cls.config import load as configs
from cls.errors import UserError

FILES = sorted(
    f'configs/{path.name}'
    for path in (configs.ROOT / 'configs').glob('*.py')
    if path.name not in ('common.py', '__init__.py')
)


@functools.cache
def photographs():
    """Returns a folder of 24 and 6 tiny images of three classes, for arms that count images.

    Its path is the same in all processes of a test run, because it is part of test names.
    """
    root = Path(tempfile.gettempdir()) / f'cls-tests-{os.getuid()}' / 'photographs'
    for split, count in (('train', 8), ('val', 2)):
        for name in ('bird', 'dog', 'vehicle'):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                file = root / split / name / f'{index}.png'
                if not file.exists():
                    partial = file.with_suffix(f'.{os.getpid()}')
                    Image.new('RGB', (8, 8), (9 * index, 0, 0)).save(partial, 'PNG')
                    partial.replace(file)
    return root


def arms():
    """Returns every arm of every config, from the message for an unknown arm."""
    for file in FILES:
        with pytest.raises(UserError) as caught:
            configs.load(f'{file}:no such arm')
        listed = re.search(r'write one of (.*?), then', str(caught.value))[1]
        options = {
            'folder': 'folder=/nonexistent',
            'finetune': f'finetune,folder={photographs()}',
        }
        for arm in listed.split(', '):
            yield f'{file}:{options.get(arm, arm)}'


def members(config):
    """Returns [config], or the configs of an ensemble's members that differ by more than seeds."""
    parts = config.get('members', {'': config}).values()
    return list({part.model.name: part for part in parts}.values())


ARMS = list(arms())
