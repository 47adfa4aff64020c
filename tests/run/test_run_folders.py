"""Run folders that are damaged, read-only, of another run, in use or full."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from logs import logged

from cls import checks
from cls.config import load as configs
from cls.config import runs
from cls.errors import UserError, reason
from cls.main import main
from cls.run import checkpoint, checkpoint_files
from cls.run import workdir as runtime
from cls.search import history
from cls.storage import paths

pytestmark = pytest.mark.usefixtures('quick_programs')

ROOT = Path(__file__).parents[2]
STEPS = 24
NET = {'layers': ['C(8,3,1)', 'P(2,2)', 'FC(16)']}
RUN = (
    '--config=configs/metaqnn.py',
    f'--config.duration={STEPS} steps',
    '--config.log_every=1 steps',
    '--config.checkpoint.every=8 steps',
    '--config.schedule.warmup=0 steps',
    '--config.ema=0.9',
)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with a genotype and the caches of all the runs here."""
    home = tmp_path_factory.mktemp('home')
    (home / 'net.json').write_text(json.dumps(NET))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CLS_CACHE_DIR', str(home / 'cache'))
        yield home


@pytest.fixture(scope='module')
def whole(home):
    """The folder of a run that nothing disturbed, with checkpoints 16 and 24."""
    assert train(home, home / 'whole') == 0
    return home / 'whole'


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it that is to be finished again from step 16."""
    shutil.copytree(whole, tmp_path / 'run')
    (tmp_path / 'run' / 'result.json').unlink()
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(STEPS))
    return tmp_path / 'run'


def arguments(home, workdir, *more):
    """Of the command that trains there."""
    return [*RUN, f'--config.model.genotype={home}/net.json', *more, f'--workdir={workdir}']


def train(home, workdir, *more):
    """Runs it in this process; returns the exit code."""
    return main(arguments(home, workdir, *more))


def content(folder):
    """Returns the content of a folder: relative name -> bytes, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob('*'))
    }


def state(workdir, step=STEPS):
    """The arrays of a checkpoint, read by Orbax alone."""
    tree = ocp.StandardCheckpointer().restore(workdir.absolute() / f'checkpoints/{step}/state')
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_end(one, other):
    """Every logged number and every array of the last state is the same, to the bit."""
    assert logged(one) == logged(other)
    for ours, theirs in zip(state(one), state(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kept = [json.loads((run / 'result.json').read_text())['test/loss'] for run in (one, other)]
    assert kept[0] == kept[1]


def line_of(function, *values):
    """The one line of the UserError that a call ends in."""
    with pytest.raises(UserError) as caught:
        function(*values)
    assert '\n' not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------
# Damaged files
# ------------------------------------------------------------------------------------------------

SMALL = (
    'config.json',
    'environment.json',
    'classes.json',
    'result.json',
    'metrics.jsonl',
    'time.json',
    'data.json',
)
HARMS = {
    'empty': lambda content: b'',
    'cut': lambda content: content[: len(content) // 2],
    'binary': lambda content: bytes(range(256)) * 4,
    'list': lambda content: b'[1, {"a": null}]\n',
    'number': lambda content: b'7\n',
    'keys': lambda content: b'{}\n',
    'strings': lambda content: re.sub(rb'\d+', b'"x"', content),
}


def harm(path, how):
    """Damages a file, or makes it of something that JSON has."""
    path.write_bytes(HARMS[how](path.read_bytes() if path.exists() else b''))


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('how', HARMS)
def test_whatever_a_small_file_holds_the_folder_is_read(name, how, run, home):
    """None of them ends a run that its checkpoint could continue."""
    harm(run / name, how)
    config = configs.load(RUN[0].removeprefix('--config='), pairs(home))
    assert runtime.finished_result(run, runs.run_config(config)) is None
    with runtime.open_run(run, runs.run_config(config), digits()):
        pass
    assert configs.to_json(runs.load_config(run)) == configs.to_json(config)
    assert runtime.load_classes(run) == digits()


def pairs(home):
    """The fields that a run here sets."""
    return configs.parse_overrides([a for a in arguments(home, '') if a.startswith('--config.')])


def digits():
    """The names of the classes."""
    return tuple(map(str, range(10)))


@pytest.mark.parametrize(
    ('name', 'how'),
    [
        ('config.json', 'empty'),
        ('metrics.jsonl', 'list'),
        *(
            pytest.param(name, how, marks=pytest.mark.sweep)
            for name in SMALL
            for how in HARMS
            if (name, how) not in (('config.json', 'empty'), ('metrics.jsonl', 'list'))
        ),
    ],
)
def test_a_run_with_a_damaged_small_file_ends_in_the_same_state(name, how, run, home, whole):
    before = (run / name).read_bytes() if (run / name).exists() else b''
    harm(run / name, how)
    assert train(home, run) == 0
    for ours, theirs in zip(state(run), state(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if name in ('config.json', 'classes.json', 'data.json'):
        assert (run / name).read_bytes() == before
    if name == 'metrics.jsonl' and how == 'list':
        assert (run / 'metrics.jsonl.damaged').read_bytes() == HARMS['list'](b'')
    results = [json.loads((folder / 'result.json').read_text()) for folder in (run, whole)]
    assert results[0]['test/loss'] == results[1]['test/loss']


def test_without_config_json_and_without_a_checkpoint_config_is_asked_for(tmp_path):
    (tmp_path / 'config.json').write_bytes(b'')
    assert '--config' in line_of(runs.load_config, tmp_path)


def no_sums(folder):
    (folder / 'checksums.json').unlink()


def empty_sums(folder):
    (folder / 'checksums.json').write_text('{}')


def no_lists(folder):
    (folder / 'checksums.json').write_text('[]')


def one_more(folder):
    (folder / 'state' / 'more').write_bytes(b'1')


def one_less(folder):
    (folder / 'account' / 'metadata').unlink()


def other_position(folder):
    (folder / 'data' / 'metadata').write_text('{"step": 3}')


def other_record(folder):
    (folder / 'run.json').write_text('{}')


def older_step(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name('16'), folder)


def older_step_with_old_sums(folder):
    """As earlier versions wrote them: without the step."""
    older_step(folder)
    sums = json.loads((folder / 'checksums.json').read_text())['files']
    (folder / 'checksums.json').write_text(json.dumps(sums))


def flipped_and_no_sums(folder):
    largest = max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    no_sums(folder)


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def a_file(folder):
    shutil.rmtree(folder)
    folder.write_bytes(b'')


DAMAGE = (
    no_sums,
    empty_sums,
    no_lists,
    one_more,
    one_less,
    other_position,
    other_record,
    older_step,
    older_step_with_old_sums,
    flipped_and_no_sums,
    emptied,
    a_file,
)


@pytest.mark.parametrize(
    'damage',
    [
        pytest.param(d, marks=() if d in (no_sums, older_step_with_old_sums) else pytest.mark.sweep)
        for d in DAMAGE
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_the_same(
    damage, whole, home, tmp_path, caplog
):
    shutil.copytree(whole, tmp_path / 'run')
    (tmp_path / 'run' / 'result.json').unlink()
    newest = tmp_path / 'run' / 'checkpoints' / str(STEPS)
    damage(newest)
    assert train(home, tmp_path / 'run') == 0
    assert_same_end(tmp_path / 'run', whole)
    if damage is not a_file:
        assert f'checkpoint {STEPS} is damaged' in caplog.text
        assert (newest.parent / 'damaged' / f'{STEPS}-0').is_dir()
    assert checkpoint_files.damage(newest) == ''


@pytest.mark.parametrize('damage', DAMAGE[:-1])
def test_damage_is_found_without_reading_a_state(damage, whole, tmp_path):
    shutil.copytree(whole / 'checkpoints', tmp_path / 'checkpoints')
    folder = tmp_path / 'checkpoints' / str(STEPS)
    assert checkpoint_files.damage(folder) == ''
    (folder / '.DS_Store').write_bytes(b'1')  # as file managers and network disks leave them
    assert checkpoint_files.damage(folder) == ''
    damage(folder)
    assert bool(checkpoint_files.damage(folder)) == (damage is not older_step_with_old_sums)
    step, problems = checkpoint_files.newest_step(tmp_path / 'checkpoints')
    assert step == (STEPS if damage is older_step_with_old_sums else 16)
    assert bool(problems) == (step == 16)


def test_a_complete_checkpoint_has_checksums_whenever_it_has_its_name(tmp_path, monkeypatch):
    """Nothing is renamed before: at every call that renames, the folder's sums are right."""
    seen = []
    rename = Path.rename

    def watched(path, target):
        if target.name.isdigit():
            seen.append(checkpoint_files.damage(path))
            assert (path / 'run.json').exists()
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', watched)
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, record={'config': '{}'})
    for step in (1, 2):
        checkpoints.save(step, {'step': np.int32(step)}, {'step': step}, {})
    checkpoints.close()
    assert seen == ['it holds step 1', 'it holds step 2']  # all that is wrong is the name
    assert [path.name for path in tmp_path.iterdir()] == ['2']


@pytest.mark.sweep
def test_killed_at_two_hundred_moments_it_ends_as_if_nothing_had_happened(home, tmp_path):
    """Fifty of them at a file that is replaced, see killed.py; about a quarter of an hour."""
    command = [sys.executable, 'tests/killed.py', tmp_path, '200', '50', '7', *arguments(home, '')]
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    subprocess.run(list(map(str, command[:-1])), cwd=ROOT, env=environment, check=True)
    runs = [folder for folder in tmp_path.iterdir() if folder.name.isdigit()]
    assert len(runs) >= 200 / 4
    for folder in runs:
        assert_same_end(folder, tmp_path / 'whole')


ASKED = b'{"asked": 0, "code": [1], "parents": []}\n'


@pytest.mark.parametrize(
    'lines',
    [
        b'[1]\n',
        b'7\n',
        b'\xff\xfe\n',
        b'{"asked": 0}\n',
        b'{"asked": "0", "code": [1]}\n',
        b'{"told": 0, "fitness": 1.0, "metrics": {}}\n',
        ASKED + b'{"told": 0, "fitness": "high", "metrics": {}}\n',
        ASKED + b'{"told": 0, "fitness": 1.0}\n',
    ],
)
def test_a_line_that_is_not_of_a_search_is_named(lines, tmp_path):
    (tmp_path / 'history.jsonl').write_bytes(lines)
    line = line_of(history.History, tmp_path / 'history.jsonl')
    assert f'line {lines.count(bytes([10]))} of' in line
    (tmp_path / 'history.jsonl').write_bytes(ASKED)
    assert len(history.History(tmp_path / 'history.jsonl')._events) == 1


# ------------------------------------------------------------------------------------------------
# Files are replaced in one piece
# ------------------------------------------------------------------------------------------------


def test_a_file_that_has_its_content_is_not_written_again(tmp_path):
    file = tmp_path / 'a.json'
    paths.write_whole(file, b'1')
    first = file.stat()
    paths.write_whole(file, b'1')
    assert file.stat().st_ino == first.st_ino
    assert file.stat().st_mtime_ns == first.st_mtime_ns
    paths.write_whole(file, b'2')
    assert file.stat().st_ino != first.st_ino  # another file took its name
    assert file.read_bytes() == b'2'
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_what_a_killed_process_left_of_a_file_is_removed(run, home):
    (run / '.config.json.123.partial').write_bytes(b'{"a"')
    (run / 'checkpoints' / '.24.partial').mkdir()
    (run / 'checkpoints' / '.24.partial' / 'x').write_bytes(b'1')
    assert train(home, run) == 0
    assert not [path for path in run.rglob('*') if 'partial' in path.name]


# ------------------------------------------------------------------------------------------------
# Weights that were imported
# ------------------------------------------------------------------------------------------------


def imported(run, tmp_path, classes=None):
    """A folder as cls.tools.import_weights makes it: a checkpoint of step 0, no metrics."""
    from cls.tools.import_weights import write

    config = runs.load_config(run)
    saved = ocp.PyTreeCheckpointer().restore(run.absolute() / 'checkpoints/16/state')
    write(config, {'params': saved['params']}, tmp_path / 'imported', classes=classes or ())
    return tmp_path / 'imported'


@pytest.mark.parametrize('classes', [tuple('abcdefghij'), digits()[::-1], ()])
def test_imported_weights_are_not_trained_on_with_other_classes(classes, run, home, tmp_path):
    """Other names, another order; or another number, where nothing names them."""
    folder = imported(run, tmp_path, classes)
    before = content(folder)
    config = runs.load_config(folder, [('duration', '9 steps')])
    names = digits() if classes else digits()[:3]
    with config.unlocked():
        config.model.num_classes = 10

    def begin():
        with runtime.open_run(folder, runs.run_config(config), names):
            pass

    line = line_of(begin)
    assert f'--config.init={folder} --workdir NEW' in line
    assert content(folder) | {'.lock': b''} == before | {'.lock': b''}


def test_imported_weights_are_left_alone_until_there_is_a_checkpoint(run, home, tmp_path, capsys):
    folder = imported(run, tmp_path)
    before = (folder / 'config.json').read_bytes()
    line = line_of(main, [*RUN, '--config.model.name=resnet20_cifar', f'--workdir={folder}'])
    assert 'model.name' in line
    assert f'--config.init={folder} --workdir NEW' in line
    more = ['--config.log_every=2 steps', '--config.checkpoint.every=12 steps']
    config = configs.load('configs/metaqnn.py', pairs(home) + configs.parse_overrides(more))
    assert runtime.finished_result(folder, runs.run_config(config)) is None
    with runtime.open_run(folder, runs.run_config(config), digits()):
        assert (folder / 'config.json').read_bytes() == before
        assert not (folder / 'classes.json').exists()
    assert 'in the order of the data set' in capsys.readouterr().out
    assert train(home, folder, *more) == 0
    assert json.loads((folder / 'config.json').read_text())['log_every'] == '2 steps'
    assert json.loads((folder / 'classes.json').read_text()) == list(digits())


# ------------------------------------------------------------------------------------------------
# Changes of the config when a run continues
# ------------------------------------------------------------------------------------------------

FREE = (
    '--config.log_every=3 steps',
    '--config.checkpoint.every=5 steps',
    '--config.checkpoint.keep=4',
    '--config.eval.batch=16',
    '--config.eval.every=7 steps',
)


def test_what_training_does_not_depend_on_may_change(run, home, whole):
    assert train(home, run, *FREE) == 0
    for ours, theirs in zip(state(run), state(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sorted(checkpoint_files.steps(run / 'checkpoints')) == [16, 20, 24]
    assert json.loads((run / 'config.json').read_text())['checkpoint']['keep'] == 4


def test_what_training_depends_on_may_not(run, home):
    before = content(run)
    line = line_of(main, arguments(home, run, '--config.optim.lr=0.5', *FREE))
    assert re.findall(r'(\S+) \(', line) == ['optim.lr']
    assert content(run) == before


def test_a_run_that_began_with_too_long_a_warmup_is_evaluated_and_continued(
    home, tmp_path, monkeypatch
):
    # as versions without the check let it begin; a new run is refused
    folder = tmp_path / 'run'
    more = ('--config.schedule.warmup=99 steps', '--config.profile=500:502')
    command = arguments(home, folder, *more)
    with pytest.raises(UserError, match=f'99 steps, and the run has {STEPS}'):
        main(command)
    with monkeypatch.context() as before:
        before.setattr(checks, 'check_length', lambda *_: None)
        assert main(command) == 0
    (folder / 'result.json').unlink()
    shutil.rmtree(folder / 'checkpoints' / str(STEPS))
    assert main(['--job=evaluate', f'--workdir={folder}']) == 0
    assert main(command) == 0
    assert json.loads((folder / 'result.json').read_text())['step'] == STEPS


def test_a_longer_run_says_what_becomes_of_its_schedule(home, tmp_path, capsys):
    run, more = tmp_path / 'run', ['--config.schedule.name=cosine']
    assert train(home, run, *more) == 0
    first = (run / 'result.json').read_bytes()
    capsys.readouterr()
    assert train(home, run, *more, '--config.duration=32 steps') == 0
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith('config.duration'))
    rate = json.loads((run / 'config.json').read_text())['optim']['lr']
    assert "'24 steps' (24 steps)" in line
    assert "'32 steps' (32 steps)" in line
    assert f'{rate * (1 + np.cos(np.pi * 24 / 32)) / 2:.4g}'[:5] in line
    assert (run / f'result-{STEPS}.json').read_bytes() == first
    assert json.loads((run / 'result.json').read_text())['step'] == 32
    before = content(run)
    line = line_of(main, arguments(home, run, *more, '--config.duration=9 steps'))
    assert 'step 32 already' in line
    changed = {name for name, data in content(run).items() if before.get(name) != data}
    assert changed <= {'.lock', 'time.json'}


# ------------------------------------------------------------------------------------------------
# Folders of others
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def read_only(folder):
    """Mounts a folder on itself so that nothing can be written there."""
    if os.geteuid() or subprocess.run(['mount', '--bind', folder, folder]).returncode:
        pytest.skip('this machine lets nobody mount')
    try:
        subprocess.run(['mount', '-o', 'remount,bind,ro', folder], check=True)
        yield
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


def evaluated(capsys, *more):
    """Returns the output of --job evaluate."""
    capsys.readouterr()
    assert main(['--job=evaluate', *map(str, more)]) == 0
    return capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_evaluated(whole, tmp_path, capsys):
    loss = f'loss {json.loads((whole / "result.json").read_text())["test/loss"]:.4f}'
    shutil.copytree(whole, tmp_path / 'run')
    before = content(tmp_path / 'run')
    where = f'--workdir={tmp_path / "run"}'
    with read_only(tmp_path / 'run'):
        printed = evaluated(capsys, where)
        assert loss in printed
        assert 'read-only' in printed
        assert '--output DIR' in printed
        evaluated(capsys, where, f'--output={tmp_path}/out', '--config.eval.predictions=a.csv')
        names = {path.name for path in (tmp_path / 'out').iterdir()}
        assert names == {'evaluation.json', 'evaluation-confusion.npz', 'a.csv'}
        line = line_of(main, ['--job=evaluate', where, '--config.eval.predictions=a.csv'])
        assert 'read-only' in line
        (tmp_path / 'file').write_bytes(b'')
        line = line_of(main, ['--job=evaluate', where, f'--output={tmp_path}/file/out'])
        assert '--output' in line
        again = arguments(whole.parent, tmp_path / 'run')
        assert main(again) == 0  # it has its result
        line = line_of(main, [*again, '--config.duration=30 steps'])
        assert 'read-only' in line
        assert 'choose another --workdir' in line
    assert content(tmp_path / 'run') == before


def test_a_folder_in_which_another_process_trains_stays_as_it_is(whole, tmp_path, capsys, caplog):
    shutil.copytree(whole, tmp_path / 'run')
    no_sums(tmp_path / 'run' / 'checkpoints' / str(STEPS))
    before = content(tmp_path / 'run')
    with (tmp_path / 'run' / '.lock').open('a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        printed = evaluated(capsys, f'--workdir={tmp_path / "run"}')
    assert 'test top-1' in printed
    assert 'another process is running' in printed
    assert f'{STEPS} is damaged (checksums.json is missing)' in caplog.text
    assert content(tmp_path / 'run') == before
    evaluated(capsys, f'--workdir={tmp_path / "run"}')
    assert json.loads((tmp_path / 'run' / 'evaluation.json').read_text())['step'] == 16


FILES = ('checkpoints', 'tensorboard', 'metrics.jsonl', '.lock')


@pytest.mark.parametrize('name', FILES)
def test_something_else_in_a_files_place_is_one_line(name, home, tmp_path):
    """A file for a folder, a folder for a file."""
    config = configs.load('configs/metaqnn.py', pairs(home))
    (tmp_path / 'config.json').write_text(configs.to_json(config))
    if name in ('checkpoints', 'tensorboard'):
        (tmp_path / name).write_bytes(b'')
    else:
        (tmp_path / name).mkdir()
    with pytest.raises((UserError, OSError)) as caught:
        train(home, tmp_path)
    assert str(tmp_path / name) in (reason(caught.value) or str(caught.value))


# ------------------------------------------------------------------------------------------------
# Processes whose folder goes away
# ------------------------------------------------------------------------------------------------


def a_file_for_checkpoints(run):
    (run / 'checkpoints').rename(run / 'away')
    (run / 'checkpoints').write_bytes(b'')


def another_name(run):
    run.rename(run.with_name('away'))


@pytest.mark.parametrize(
    'harm', [a_file_for_checkpoints, pytest.param(another_name, marks=pytest.mark.sweep)]
)
def test_a_folder_that_goes_away_is_one_line_and_the_process_ends(harm, home, tmp_path):
    command = [sys.executable, '-m', 'cls.main', *arguments(home, tmp_path / 'run')]
    more = ['--config.duration=100000 steps', '--config.checkpoint.every=100 steps']
    with subprocess.Popen(
        [*command, *more], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for line in process.stdout:
            if line.startswith('step 130/'):
                process.send_signal(signal.SIGSTOP)
                harm(tmp_path / 'run')
                process.send_signal(signal.SIGCONT)
                break
        _, errors = process.communicate(timeout=60)  # Orbax would wait for five minutes
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert str(tmp_path / 'run' / 'checkpoints') in line


def test_a_run_that_is_past_its_new_end_is_not_said_to_continue(run, home, capsys):
    with pytest.raises(UserError, match='has come to step 16 already.* 8 steps: expected'):
        train(home, run, '--config.duration=8 steps')
    assert 'continuing' not in capsys.readouterr().out
