"""Run folders, data and weights in object stores: real clients and servers on this machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from logs import logged
from stores import bucket, cache, emulated, gs_server, s3_bucket, s3_server

from cls.errors import UserError
from cls.storage import download, lock, paths

ROOT = Path(__file__).parents[2]
__all__ = ['bucket', 'cache', 'gs_server', 's3_bucket', 's3_server']  # fixtures


# ------------------------------------------------------------------------------------------------
# Paths
# ------------------------------------------------------------------------------------------------


def test_paths_of_this_machine_stay_what_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert type(paths.path('~/runs/x')) is type(Path())
    assert paths.path('~/runs/x') == paths.checked('~/runs/x') == tmp_path / 'runs' / 'x'
    assert download.fetched(tmp_path) == tmp_path
    assert not paths.is_remote(tmp_path)


def test_urls_that_cannot_be_used_are_refused_in_a_line(monkeypatch):
    with pytest.raises(UserError, match=r's4://a/b: expected gs://BUCKET.*Did you mean s3'):
        paths.path('s4://a/b')
    with pytest.raises(UserError, match='names no bucket'):
        paths.path('gs://')
    monkeypatch.setattr(paths.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='needs the package gcsfs: run `pip install gcsfs`'):
        paths.path('gs://bucket/run')


def test_a_bucket_that_is_not_there_is_not_made(bucket):
    misspelled = f'{str(bucket)}x/run'
    with pytest.raises(UserError, match=f'{misspelled} cannot be used.*expected a bucket'):
        paths.checked(misspelled)
    assert not paths.filesystem(bucket).exists('bucketx')
    assert paths.checked(bucket / 'run') == bucket / 'run'  # the name is still free


def test_files_are_written_found_moved_and_removed(bucket):
    paths.write_whole(bucket / 'run' / 'a.json', b'{}')
    paths.write_whole(bucket / 'run' / 'sub' / 'b', b'123')
    found = paths.find(bucket / 'run')
    assert list(found) == ['a.json', 'sub/b']
    assert len({paths.fingerprint(entry) for entry in found.values()}) == 2
    paths.write_whole(bucket / 'run' / 'sub' / 'b', b'321')  # of the same length
    changed = paths.find(bucket / 'run')['sub/b']
    assert paths.fingerprint(changed) != paths.fingerprint(found['sub/b'])
    paths.move(bucket / 'run', bucket / 'damaged' / 'run-0')
    assert list(paths.find(bucket)) == ['damaged/run-0/a.json', 'damaged/run-0/sub/b']
    paths.remove(bucket / 'damaged')
    assert not paths.find(bucket)


def test_a_file_whose_writing_fails_keeps_its_content(tmp_path, s3_bucket):
    for folder in (tmp_path / 'run', s3_bucket / 'run'):
        paths.make_folder(folder)
        with paths.writing(folder / 'a.csv') as file:
            file.write(b'one\n')
            file.write(b'two\n')
        with pytest.raises(KeyboardInterrupt), paths.writing(folder / 'a.csv') as file:
            file.write(b'three')
            raise KeyboardInterrupt
        assert (folder / 'a.csv').read_bytes() == b'one\ntwo\n'
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['a.csv']


def test_a_mirror_sends_what_has_changed(s3_bucket):
    mirror = paths.Mirror(s3_bucket / 'run')
    (mirror.folder / 'sub').mkdir()
    (mirror.folder / 'sub' / 'file').write_text('one\n')
    (mirror.folder / 'other').write_text('1')
    mirror.send()
    (s3_bucket / 'run' / 'other').unlink()
    with (mirror.folder / 'sub' / 'file').open('a') as file:
        file.write('two\n')
    mirror.close()
    assert (s3_bucket / 'run' / 'sub' / 'file').read_text() == 'one\ntwo\n'
    assert list(paths.find(s3_bucket)) == ['run/sub/file']  # unchanged files were not sent
    assert not mirror.folder.exists()


def test_a_log_is_sent_in_parts(bucket, monkeypatch):
    """S3 joins no parts below 5 MiB: there the first part is that large."""
    whole, upload = [], paths.upload
    monkeypatch.setattr(paths, 'upload', lambda *names: (whole.append(names), upload(*names)))
    mirror = paths.Mirror(bucket / 'run')
    log, there = mirror.folder / 'log', bucket / 'run' / 'log'
    least = paths.S3_PART if str(bucket).startswith('s3') else 1000
    content = np.random.default_rng(0).bytes(least)
    log.write_bytes(content)
    mirror.send()
    for part in (b'two\n', b'three\n', b''):
        with log.open('ab') as file:
            file.write(part)
        mirror.send()
        content += part
        assert there.read_bytes() == content
    assert len(whole) == 1
    there.write_bytes(content + b'four\n')  # an append whose reply was lost
    with log.open('ab') as file:
        file.write(b'four\nfive\n')
    mirror.send()
    assert there.read_bytes() == content + b'four\nfive\n'
    there.unlink()
    with log.open('ab') as file:
        file.write(b'six\n')
    mirror.close()
    assert there.read_bytes() == content + b'four\nfive\nsix\n'
    assert len(whole) == 3
    assert list(paths.find(bucket / 'run')) == ['log']


def test_what_a_killed_process_left_is_cleared_away(cache):
    code = (
        'from cls.storage import paths; s = paths.Scratch(); print(s.folder, flush=True); input()'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code], stdin=-1, stdout=-1, cwd=ROOT, text=True, env=dict(os.environ)
    )
    folder = Path(process.stdout.readline().strip())
    paths.Scratch().close()
    assert folder.is_dir()  # its process still runs
    process.kill()
    process.communicate()
    paths.Scratch().close()
    assert not folder.exists()


# ------------------------------------------------------------------------------------------------
# Copies of read files
# ------------------------------------------------------------------------------------------------


def test_a_folder_is_copied_once_and_a_broken_copy_goes_on(s3_bucket, cache, capsys):
    for name in ('a', 'b', 'sub/c'):
        paths.write_whole(s3_bucket / 'data' / name, name.encode() * 3)
    partial = cache / 'fetched' / 's3' / 'bucket' / '.data.partial'
    partial.mkdir(parents=True)
    (partial / 'a').write_bytes(b'old')  # copied before
    (partial / 'b').write_bytes(b'b')  # cut off
    folder = download.fetched(f'{s3_bucket}/data')
    assert [(folder / name).read_bytes() for name in ('a', 'b', 'sub/c')] == [
        b'old',
        b'bbb',
        b'sub/c' * 3,
    ]
    assert 'copying 3 files' in capsys.readouterr().out
    assert not partial.exists()

    download._copied.cache_clear()  # as in another process
    paths.remove(s3_bucket / 'data')
    assert download.fetched(f'{s3_bucket}/data') == folder
    assert f'read from its copy in {folder}' in capsys.readouterr().out


def test_a_file_that_changed_is_copied_again(bucket):
    paths.write_whole(bucket / 'net.pth', b'one')
    assert download.fetched(bucket / 'net.pth').read_bytes() == b'one'
    paths.write_whole(bucket / 'net.pth', b'two')
    download._copied.cache_clear()
    assert download.fetched(bucket / 'net.pth').read_bytes() == b'two'
    assert download.fetched(bucket / 'net.pth').name == 'net.pth'


def test_a_missing_object_and_a_full_disk_are_one_line(s3_bucket, monkeypatch):
    with pytest.raises(UserError, match='nothing is there'):
        download.fetched(s3_bucket / 'data')
    paths.write_whole(s3_bucket / 'data' / 'a', b'1')
    monkeypatch.setattr(
        paths.shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(1, 1, 0)
    )
    with pytest.raises(UserError, match='no space left for a copy of s3://bucket/data'):
        download.fetched(s3_bucket / 'data')


# ------------------------------------------------------------------------------------------------
# Exclusive writing
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(lock, 'RENEW', 0.1)
    monkeypatch.setattr(lock, 'SETTLE', 0.1)


def test_a_folder_is_one_process_s_and_free_afterwards(bucket, hasty):
    with lock.exclusive(bucket), pytest.raises(UserError, match='another process is training in'):  # noqa: SIM117
        with lock.exclusive(bucket):
            raise AssertionError('two processes hold one folder')
    with lock.exclusive(bucket):
        assert json.loads((bucket / '.lock').read_text())['pid'] == os.getpid()
    assert not (bucket / '.lock').exists()


def _lock_of(bucket, **owner):
    paths.write_whole(bucket / '.lock', json.dumps({'id': 'other', **owner}).encode())


def test_a_process_of_this_machine_that_ended_holds_nothing(s3_bucket, hasty, monkeypatch):
    ended = subprocess.Popen(['true'])
    ended.wait()
    _lock_of(s3_bucket, host='here', pid=ended.pid, **lock._machine())
    if lock._machine():
        monkeypatch.setattr(lock, '_watch', None)  # the kernel knows: no need to wait
    with lock.exclusive(s3_bucket):
        assert json.loads((s3_bucket / '.lock').read_text())['pid'] == os.getpid()


def test_a_silent_holder_elsewhere_is_waited_for_then_passed_over(
    s3_bucket, hasty, monkeypatch, capsys
):
    monkeypatch.setattr(lock, 'PATIENCE', 2.0)
    _lock_of(s3_bucket, host='elsewhere', pid=7)
    start = time.monotonic()
    with lock.exclusive(s3_bucket):
        assert time.monotonic() - start >= lock.PATIENCE
    assert 'held by process 7 on elsewhere: waiting' in capsys.readouterr().out


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_process_that_lost_the_folder_stops_at_once(s3_bucket, hasty, monkeypatch, capsys):
    stopped = threading.Event()

    def stop(code):
        assert code == 2
        stopped.set()
        raise SystemExit  # ends only the thread

    monkeypatch.setattr(lock.os, '_exit', stop)
    with lock.exclusive(s3_bucket):
        _lock_of(s3_bucket, host='elsewhere', pid=7)
        assert stopped.wait(30)
    assert 'elsewhere has taken over s3://bucket' in capsys.readouterr().err
    assert json.loads((s3_bucket / '.lock').read_text())['id'] == 'other'  # nor is it removed


# ------------------------------------------------------------------------------------------------
# Files of a run
# ------------------------------------------------------------------------------------------------


def test_metrics_are_in_the_store_when_flushed_and_go_on_after_a_step(s3_bucket):
    from cls.run.telemetry import Metrics

    metrics = Metrics(s3_bucket / 'run', 0)
    for step in (1, 2, 3):
        metrics.write(step, {'loss': 1 / step})
    metrics.flush()
    metrics.write(4, {'loss': 0.25})  # killed after it
    assert _steps_logged(s3_bucket / 'run') == [1, 2, 3]
    later = Metrics(s3_bucket / 'run', 2)
    later.write(3, {'loss': float('nan')})
    later.close()
    assert _steps_logged(s3_bucket / 'run') == [1, 2, 3]
    assert json.loads((s3_bucket / 'run' / 'metrics.jsonl').read_text().splitlines()[-1]) == {
        'step': 3,
        'loss': None,
    }
    events = [name for name in paths.find(s3_bucket / 'run') if name.startswith('tensorboard/')]
    assert events
    metrics._mirror._scratch.close()


def test_csv_files_of_a_store_grow_and_continue(s3_bucket):
    from cls.run.loggers import opening
    from cls.run.loggers.spec import LogSpec
    from cls.run.telemetry import Metrics

    workdir, spec = s3_bucket / 'run', LogSpec(('tensorboard', 'csv'))
    metrics = Metrics(workdir, 0, spec)
    for step in (1, 2, 3):
        metrics.write(step, {'train/loss': float(step)})
        metrics.flush()
    metrics.close()
    metrics = Metrics(workdir, 2, spec)
    metrics.write(3, {'train/loss': 30.0})
    metrics.close()
    lines = (workdir / 'metrics' / 'train.csv').read_text().splitlines()
    assert lines == ['step,train/loss', '1,1.0', '2,2.0', '3,30.0']
    (line,) = opening.how_to_view(spec, workdir)
    assert f'tensorboard --logdir {s3_bucket}/run/tensorboard ' in line


def _steps_logged(workdir):
    return [
        json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()
    ]


@emulated
def test_checkpoints_are_kept_restored_and_passed_over_when_damaged(bucket, caplog):
    import jax
    import jax.numpy as jnp

    from cls.run.checkpoint import Checkpoints
    from cls.run.checkpoint_files import newest_whole, steps

    def state(step):
        weights = np.random.default_rng(step).normal(size=4000)  # not to be compressed
        return {'weights': jnp.float32(weights), 'step': jnp.int32(step)}

    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state(0))
    folder = bucket / 'checkpoints'
    written = Checkpoints(folder, keep=2)
    assert written.restore(abstract) is None
    for step in (10, 20, 30):
        written.save(step, state(step), {'step': step}, {'step': 1.5})
    assert written.newest() == folder / '30'
    written.close()
    assert sorted(steps(folder)) == [20, 30]
    assert not (folder / '10').exists()

    def restored():
        checkpoints = Checkpoints(folder, keep=2)
        found, data, ledger = checkpoints.restore(abstract)
        checkpoints.close()
        step = int(found['step'])
        np.testing.assert_array_equal(found['weights'], state(step)['weights'])
        assert (data, ledger) == ({'step': step}, {'step': 1.5})
        return step

    assert restored() == 30
    with newest_whole(folder) as found:
        assert found.name == '30'
    largest = max(paths.find(folder / '30').items(), key=lambda item: item[1]['size'])[0]
    content = bytearray((folder / '30' / largest).read_bytes())
    content[len(content) // 2] ^= 1
    paths.write_whole(folder / '30' / largest, bytes(content))
    with newest_whole(folder) as found:
        assert found.name == '20'
    assert restored() == 20
    assert f'{largest} has changed since it was written' in caplog.text
    assert largest in paths.find(folder / 'damaged' / '30-0')
    assert steps(folder) == [20]


def test_a_checkpoint_whose_copy_was_cut_off_does_not_count(s3_bucket):
    from cls.run.checkpoint_files import newest_whole, steps

    paths.write_whole(s3_bucket / '5' / 'state' / 'd', b'1')
    assert steps(s3_bucket) == []
    with newest_whole(s3_bucket) as found:
        assert found is None


def test_images_in_a_store_are_those_of_a_folder(s3_bucket, tmp_path):
    import cv2

    from cls.data.datasets import load
    from cls.data.folders import open_folder
    from cls.data.spec import DataSpec

    rng = np.random.default_rng(0)
    for name in ('train/cat/1.png', 'train/dog/2.png', 'val/cat/3.png'):
        (tmp_path / 'd' / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / 'd' / name), rng.integers(256, size=(4, 5, 3), dtype=np.uint8))
        paths.upload(tmp_path / 'd' / name, s3_bucket / 'd' / name)
    spec = DataSpec(f'folder:{s3_bucket}/d')
    for split in ('train', 'eval'):
        ours, theirs = load(spec, split), open_folder(tmp_path / 'd', split)
        assert ours.class_names == theirs.class_names == ('cat', 'dog')
        assert len(ours) == len(theirs)
        for i in range(len(ours)):
            np.testing.assert_array_equal(ours[i]['image'], theirs[i]['image'])
            assert ours[i]['label'] == theirs[i]['label']


@pytest.mark.sweep
def test_prepared_data_sets_in_a_store_have_the_same_records(bucket, cache):
    """array_record reads gs:// in place; s3:// is copied."""
    from cls.data import digits, tfds_sets

    local = digits.prepare(str(cache / 'made'))
    root = Path(local.data_dir)
    for file in root.iterdir():
        paths.upload(file, bucket / 'tfds' / 'digits' / '1.0.0' / file.name)
    there = tfds_sets.prepared('digits', f'{bucket}/tfds')
    assert str(there.data_dir).startswith('gs://') == str(bucket).startswith('gs://')
    for split in ('train', 'test'):
        ours = tfds_sets.open_split(there, 'digits', split)
        theirs = tfds_sets.open_split(local, 'digits', split)
        indices = np.arange(len(theirs))
        for one, other in zip(ours.take(indices), theirs.take(indices), strict=True):
            np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------------
# Whole runs
# ------------------------------------------------------------------------------------------------

STEPS = 24
RUN = (
    '--config=configs/metaqnn.py',
    f'--config.duration={STEPS} steps',
    '--config.schedule.warmup=10 percent',
    '--config.log_every=1 steps',
    '--config.checkpoint.every=8 steps',
    '--config.checkpoint.keep=2',
    '--config.ema=0.9',
    '--config.eval.every=8 steps',
)


@pytest.mark.sweep
def test_a_run_in_a_store_that_is_killed_ends_as_one_in_a_folder(bucket, tmp_path, capsys):
    """Its evaluation and a run that starts from its weights have the same numbers, too."""
    from cls.main import main
    from cls.run.checkpoint_files import steps

    paths.write_whole(bucket / 'net.json', b'{"layers": ["C(8,3,1)", "P(2,2)", "FC(16)"]}')
    run = [*RUN, f'--config.model.genotype={bucket}/net.json']
    there, here = bucket / 'runs' / 'one', tmp_path / 'run'
    assert main([*run, f'--workdir={here}', '--config.profile=18:19']) == 0

    command = [sys.executable, '-m', 'cls.main', *run, f'--workdir={there}']
    with subprocess.Popen(
        [*command, '--config.profile=18:19'], stdout=-1, text=True, cwd=ROOT, env=dict(os.environ)
    ) as process:
        for line in process.stdout:
            if f'step 19/{STEPS}' in line:
                break
        process.kill()
    assert not (there / 'result.json').exists()
    assert (there / '.lock').exists()
    assert max(steps(there / 'checkpoints')) in (8, 16)
    for _ in range(2):  # the same command after the end changes nothing
        assert main([*run, f'--workdir={there}', '--config.profile=18:19']) == 0
    assert logged(there) == logged(here)
    for folder in (there, here):
        names = {path.name for path in folder.iterdir()}
        assert {'config.json', 'environment.json', 'result.json', 'tensorboard', 'profile'} <= names
        assert sorted(steps(folder / 'checkpoints')) == [16, STEPS]
        assert (
            main([f'--workdir={folder}', '--job=evaluate', '--config.eval.predictions=all.csv'])
            == 0
        )
    assert not (there / '.lock').exists()
    for name in ('evaluation.json', 'evaluation-confusion.npz', 'all.csv'):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name

    for name, folder in (('a', there), ('b', here)):
        begun = [*run, f'--workdir={tmp_path / name}', '--config.duration=1 steps']
        begun += ['--config.schedule.warmup=100 percent']
        assert main([*begun, f'--config.init={folder}']) == 0
    assert logged(tmp_path / 'a') == logged(tmp_path / 'b')
    assert capsys.readouterr().out.count(' tensors taken, all of them') == 2


def test_a_misspelled_bucket_ends_in_one_line_and_code_2(s3_bucket):
    run = subprocess.run(
        [sys.executable, '-m', 'cls.main', *RUN, f'--workdir={s3_bucket}x/run'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert (run.returncode, run.stdout) == (2, '')
    (line,) = run.stderr.splitlines()
    assert line.startswith('error: s3://bucketx/run cannot be used')
