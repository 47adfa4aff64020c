"""The interface of supernets: nothing fills it before the searches are imported."""

import subprocess
import sys
from pathlib import Path

CODE = """
from cls import models
from cls.steps import supernet

assert not models.is_known('darts_supernet')
try:
    supernet.create({}, None, (8, 8, 1), int)
except Exception as error:
    print(error)
import cls.search.supernets

assert models.is_known('darts_supernet')
print(models.create('proxyless_supernet', num_classes=4).num_classes)
"""


def test_supernets_are_there_once_the_searches_are_imported():
    command = [sys.executable, '-c', CODE]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    message, classes = result.stdout.splitlines()
    assert 'expected `import cls.search.supernets`' in message
    assert classes == '4'
