"""The restart of a program with huge pages."""

import os
import subprocess
import sys

import pytest

from cls import huge_pages

PROGRAM = """
import os, sys
from pathlib import Path
from cls import huge_pages
huge_pages._OFFERED = Path(sys.argv[1])
huge_pages.restart()
print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.argv[2:])
"""


def run(offered, **variables):
    """Returns the process number before, and the words that the program prints."""
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE} | variables
    program = subprocess.Popen(
        [sys.executable, '-c', PROGRAM, str(offered), 'a b', '--config.x=1'],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    text = program.communicate()[0].split(maxsplit=2)
    assert program.returncode == 0
    return program.pid, text


@pytest.fixture
def offered(tmp_path):
    path = tmp_path / 'enabled'
    path.write_text('always [madvise] never\n')
    if huge_pages.VARIABLE not in os.environ:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(huge_pages, '_OFFERED', path)
            if not huge_pages.setting():
                pytest.skip('a C library without the setting')
    return path


def test_the_same_process_goes_on_with_the_same_arguments(offered):
    pid, (number, setting, arguments) = run(offered)
    assert int(number) == pid
    assert setting == huge_pages.SETTING
    assert arguments.strip() == "['a b', '--config.x=1']"


@pytest.mark.parametrize('policy', ['[always] madvise never', 'always madvise [never]'])
def test_no_restart_where_the_system_decides_itself(offered, policy):
    offered.write_text(policy)
    assert run(offered)[1][1] == 'None'


def test_no_restart_without_the_file_or_with_a_setting_of_the_user(offered, tmp_path):
    assert run(tmp_path / 'absent')[1][1] == 'None'
    assert run(offered, GLIBC_TUNABLES='glibc.malloc.check=0')[1][1] == 'glibc.malloc.check=0'


@pytest.mark.parametrize('command', ['predict', 'serve', 'train'])
def test_commands_that_compute_restart(offered, command):
    code = (
        'import sys; from pathlib import Path; from cls import __main__ as m, huge_pages;'
        'huge_pages._OFFERED = Path(sys.argv.pop(1));'
        'm.run = lambda _: print(huge_pages.os.environ.get("GLIBC_TUNABLES")); m.main()'
    )
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    done = subprocess.run(
        [sys.executable, '-c', code, str(offered), command],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == huge_pages.SETTING
