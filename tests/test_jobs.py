"""Flags, a config and a job: the run folder that is chosen without --workdir."""

import os

import pytest

from cls.config import load
from cls.jobs import default_workdir


def workdir(folder, spec='resnet'):
    """Returns the name of the default run folder for images in a folder."""
    return default_workdir(spec, load.load('resnet', [('data.name', f'folder:/d/{folder}')])).name


@pytest.mark.parametrize('folder', ['x' * 245, 'ü' * 127])
def test_a_name_that_is_too_long_is_cut_and_stays_unique(folder, tmp_path):
    one, other = workdir(folder), workdir(folder[:-1] + 'z')
    assert one != other
    assert len(os.fsencode(one)) == 240
    assert one.startswith(f'resnet-{folder[:100]}')
    (tmp_path / one).mkdir()


def test_a_long_config_file_has_a_run_folder_too(tmp_path):
    name = workdir('photos', 'y' * 251 + '.py')
    (tmp_path / name).mkdir()


def test_a_short_name_stays_whole():
    assert workdir('photos').startswith('resnet-photos-')
