"""The record of a run's surroundings, and run folders with unusual entries."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest

from cls.config import load as configs
from cls.config.runs import load_config, run_config
from cls.errors import UserError
from cls.main import main
from cls.run import environment, workdir
from cls.run.telemetry import Metrics

ROOT = Path(__file__).parents[2]


def test_a_checkout_tells_its_commit():
    git = ['git', '-C', str(Path(environment.__file__).parent), 'rev-parse', 'HEAD']
    if not shutil.which('git') or subprocess.run(git, capture_output=True).returncode:
        pytest.skip('no checkout')
    head = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert environment.environment()['commit'].removesuffix('-dirty') == head


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    found = environment.environment()
    assert found['commit'] is None
    assert found['device_count'] == jax.device_count()


def test_an_unpacked_archive_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, '__file__', str(tmp_path / 'runtime.py'))
    assert environment.environment()['commit'] is None


@pytest.mark.parametrize('name', ['.lock', 'metrics.jsonl', 'history.jsonl', 'evaluation.json'])
@pytest.mark.parametrize('there', [True, False])
def test_a_run_folder_s_links_lead_to_no_file_outside(tmp_path, name, there):
    """It may come from anybody; locking, logging and appending would change the target."""
    other = tmp_path / 'other'
    if there:
        other.write_text('of somebody')
    (tmp_path / 'run').mkdir()
    config = configs.load('configs/resnet.py')
    (tmp_path / 'run' / 'config.json').write_text(configs.to_json(config))
    (tmp_path / 'run' / name).symlink_to(other)
    with (
        pytest.raises(UserError, match=rf'{name} is a link to {other}'),
        workdir.open_run(tmp_path / 'run', run_config(config)),
    ):
        raise AssertionError('claimed')
    assert (other.read_text() if there else other.exists()) == ('of somebody' if there else False)
    assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == sorted({name, 'config.json'})


def test_a_folder_on_another_disk_is_said(tmp_path, caplog):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'checkpoints').symlink_to(tmp_path / 'disk')
    with (
        caplog.at_level(logging.WARNING),
        workdir.open_run(tmp_path / 'run', run_config(configs.load('configs/resnet.py'))),
    ):
        pass
    assert f'what is written there goes to {tmp_path / "disk"}' in caplog.text


@pytest.mark.parametrize('name', ['config.json', 'result.json', 'checkpoints/8/run.json'])
def test_a_pipe_in_a_run_folder_is_not_waited_for(tmp_path, name):
    config = configs.load('configs/resnet.py')
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    for read in (load_config, lambda run: workdir.finished_result(run, run_config(config))):
        with pytest.raises(UserError, match=f'{name} is a pipe.*: expected a file'):
            read(tmp_path)
    with pytest.raises(UserError, match=f'{name} is a pipe'):
        main(['--config=configs/resnet.py', '--job=print', f'--workdir={tmp_path}'])


@pytest.mark.parametrize('name', ['result.json', 'data.json', 'checkpoints', 'tensorboard'])
def test_a_folder_for_a_file_is_refused_before_anything_is_trained(tmp_path, name):
    config = configs.load('configs/resnet.py')
    if '.' in name:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text('')
    with pytest.raises(UserError, match=rf'{name} is a (folder: expected a file|file: expected a)'):
        workdir.finished_result(tmp_path, run_config(config))
    with pytest.raises(UserError, match=f'{name} is a'):
        load_config(tmp_path)


def test_a_damaged_result_is_said_once(tmp_path, caplog):
    config = configs.load('configs/resnet.py')
    (tmp_path / 'config.json').write_text(configs.to_json(config))
    (tmp_path / 'result.json').write_text('null')
    assert workdir.finished_result(tmp_path, run_config(config)) is None
    workdir.settle(tmp_path, run_config(config))
    assert caplog.text.count('is not the result of a finished run') == 1
    assert (tmp_path / 'result-earlier.json').read_text() == 'null'


def test_what_is_logged_is_a_line_on_the_first_process_alone(tmp_path):
    """A library makes a handler when it is imported, in a form of its own."""
    program = (
        'import logging; from cls import cli, jobs;'
        'cli.show_log(logging.ERROR); logging.getLogger("cls").warning("not shown");'
        'logging.getLogger("cls").error("shown")'
    )
    command = [sys.executable, '-c', program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == 'ERROR: shown\n'


@pytest.mark.skipif(not Path('/dev/shm').is_dir(), reason='no second file system')
@pytest.mark.parametrize('again', [True, False])
def test_a_disk_that_is_unmounted_is_noticed(tmp_path, again):
    """A link is led elsewhere, as the name of a folder is when its disk goes."""
    for name in ('disk', 'under'):
        (tmp_path / name).mkdir()
    (tmp_path / 'run').symlink_to(tmp_path / 'disk')
    metrics = Metrics(tmp_path / 'run', 0)
    metrics.write(1, {'train/loss': 1.0})
    (tmp_path / 'run').unlink()
    with tempfile.TemporaryDirectory(dir='/dev/shm') as other:
        (tmp_path / 'run').symlink_to(other if again else tmp_path / 'under')
        if again:
            (Path(other) / 'metrics.jsonl').touch()
        with pytest.raises(UserError, match='metrics.jsonl is gone.*its disk unmounted'):
            metrics.write(2, {'train/loss': 1.0})
    assert (tmp_path / 'disk' / 'metrics.jsonl').read_text().count('\n') == 1
