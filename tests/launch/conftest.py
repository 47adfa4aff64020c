"""A copy of the scripts, and stubs of missing commands that record their calls."""

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NOTE = """#!{python}
import json, os, sys
with open({notes!r}, 'a') as file:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=file)
{then}
"""


@dataclass
class Project:
    """A folder with launch/, and a folder of commands that comes first on the PATH."""

    root: Path
    commands: Path
    notes: Path

    def command(self, name: str, then: str = '') -> None:
        """Makes a command that records its arguments, then runs the Python code in `then`."""
        executable(self.commands / name, self.program(then))

    def program(self, then: str = '') -> str:
        """Returns the source of a command that records its arguments."""
        return NOTE.format(python=sys.executable, notes=str(self.notes), then=then)

    def run(self, script: str, *flags: str, **variables: str) -> subprocess.CompletedProcess:
        """Runs a script of launch/."""
        return subprocess.run(
            ['bash', self.root / 'launch' / script, *flags],
            cwd=self.root.parent,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def environment(self, **variables: str) -> dict[str, str]:
        """Returns the variables of a process that finds the commands."""
        path = f'{self.commands}:{os.environ["PATH"]}'
        return os.environ | {'PATH': path, 'HOME': str(self.root.parent)} | variables

    def calls(self, name: str = '') -> list[list[str]]:
        """Returns name and arguments of the calls of one command, or of all, in order."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [call for call in map(json.loads, lines) if name in ('', call[0])]


def executable(path: Path, text: str) -> None:
    """Writes a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts with a .venv that is set up, and a Python that records its calls."""
    root = tmp_path / 'cls'
    shutil.copytree(ROOT / 'launch', root / 'launch')
    for name in ('requirements.txt', 'pyproject.toml'):
        shutil.copy(ROOT / name, root)
    (root / 'tests').mkdir()
    shutil.copy(ROOT / 'tests' / 'requirements.txt', root / 'tests')
    made = Project(root, tmp_path / 'bin', tmp_path / 'notes')
    made.commands.mkdir()
    # The stamp of setup.sh; with a wrong stamp the stub of pip would record an installation.
    files = ['requirements.txt', 'tests/requirements.txt']
    files += sorted(str(p.relative_to(root)) for p in root.glob('launch/requirements*.txt'))
    files.append('pyproject.toml')
    digest = hashlib.sha256(b''.join((root / name).read_bytes() for name in files)).hexdigest()
    for name in ('python', 'cls'):
        executable(root / '.venv/bin' / name, made.program())
    for name in ('tpu', 'cuda'):
        stamp = root / '.venv' / f'.installed-launch-requirements-{name}.txt'
        stamp.write_text(f'{platform.python_version()} {root} {digest}\n')
    executable(made.commands / 'python3', f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return made
