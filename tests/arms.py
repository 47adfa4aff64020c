"""Every arm of every config, for the tests that go through them."""

import re

import pytest

from cls import config as configs
from cls.errors import UserError

FILES = sorted(
    f'configs/{path.name}'
    for path in (configs.ROOT / 'configs').glob('*.py')
    if path.name not in ('common.py', '__init__.py')
)


def arms():
    """Every arm of every config, as the message to an unknown one lists them."""
    for file in FILES:
        with pytest.raises(UserError) as caught:
            configs.load(f'{file}:no such arm')
        listed = re.search(r'write one of (.*?), then', str(caught.value))[1]
        for arm in listed.split(', '):
            yield f'{file}:{"folder=/nonexistent" if arm == "folder" else arm}'


def members(config):
    """The config itself, or those of an ensemble's members that differ in more than the seed."""
    parts = config.get('members', {'': config}).values()
    return list({part.model.name: part for part in parts}.values())


ARMS = list(arms())
