"""launch/tpu.sh with a stub of gcloud: its hosts are folders, and commands really run in them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FLAGS = ['--name=run1', '--zone=z', '--type=v5litepod-16', '--workdir=gs://b/run1', '--poll=1']
TRAIN = ['--', '--config', 'configs/resnet.py', "--config.duration=it's 9 epochs"]

# The states of the slice come from a file, one for each query; the last one is repeated. The exit
# codes of ssh and the existence of a result come from files in the same way.
GCLOUD = """
import pathlib, shutil, subprocess
here = pathlib.Path({here!r})

def following(name):
    file = here / name
    first, *rest = file.read_text().split()
    if rest:
        file.write_text(' '.join(rest))
    return first

verb = sys.argv[4] if sys.argv[1] == 'compute' else 'ls'
if verb == 'describe':
    state = following('states')
    if state == 'NONE':
        sys.exit('ERROR: NOT_FOUND: no such resource')
    if state == 'UNKNOWN':
        sys.exit('ERROR: no network')
    print(state)
elif verb == 'scp':
    shutil.copy(sys.argv[5], here / 'host' / sys.argv[6].split(':')[1])
elif verb == 'ssh':
    command = next(a for a in sys.argv if a.startswith('--command=')).partition('=')[2]
    code = subprocess.call(
        ['bash', '-c', command], cwd=here / 'host', env=os.environ | {{'HOME': str(here / 'host')}}
    )
    sys.exit(code or int(following('codes')))
elif verb == 'ls':
    sys.exit(int(following('results')))
"""


@pytest.fixture
def cloud(project):
    """The project as a commit, with a worker that records its flags, and a stub of gcloud."""
    here = project.root.parent
    (here / 'host').mkdir()
    worker = project.root / 'launch/tpu_worker.sh'
    worker.write_text(f'#!/bin/bash\nexec {sys.executable} {here}/worker.py "$@"\n')
    (here / 'worker.py').write_text(project.program())
    git = ['git', '-C', project.root, '-c', 'user.name=a', '-c', 'user.email=a@b']
    for words in (['init', '--quiet'], ['add', 'launch'], ['commit', '--quiet', '-m', 'one']):
        subprocess.run([*git, *words], check=True)
    project.command('sleep')
    project.command('gcloud', GCLOUD.format(here=str(here)))
    project.states = lambda *names: (here / 'states').write_text(' '.join(names))
    (here / 'codes').write_text('0')
    (here / 'results').write_text('1 0')  # no result before, one after the first training
    return project


def verbs(cloud):
    """Returns the operations on the slice and the runs of the worker, in order."""
    calls = [c[4] if c[0] == 'gcloud' and c[1] == 'compute' else c[0] for c in cloud.calls()]
    return [verb for verb in calls if verb not in ('describe', 'gcloud', 'sleep')]


def test_requests_waits_trains_and_deletes(cloud):
    cloud.states('NONE', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')
    done = cloud.run('tpu.sh', *FLAGS, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert verbs(cloud) == ['create', 'scp', 'scp', 'ssh', 'worker.py', 'delete']
    # The flags passed two shells unchanged, and the commit came through git.
    assert cloud.calls('worker.py') == [['worker.py', '--workdir', 'gs://b/run1', *TRAIN[1:]]]
    host = cloud.root.parent / 'host/cls'
    head = [
        subprocess.check_output(['git', '-C', folder, 'rev-parse', 'HEAD'])
        for folder in (cloud.root, host)
    ]
    assert head[0] == head[1]
    assert 'run1: WAITING_FOR_RESOURCES' in done.stderr


def test_the_token_goes_by_a_file_that_only_its_user_can_read(cloud):
    host = cloud.root.parent / 'host'
    cloud.states('ACTIVE')
    assert cloud.run('tpu.sh', *FLAGS, *TRAIN, TMPDIR=str(host.parent)).returncode == 0
    token = (host / 'cls.token').read_text().strip()
    assert len(token) == 32
    assert (host / 'cls.token').stat().st_mode & 0o777 == 0o600
    assert token not in str(cloud.calls())
    assert not list(host.parent.glob('*.token'))


def test_the_worker_takes_the_token_that_was_sent(project):
    home = project.root.parent
    program = f'open({str(home / "taken")!r}, "a").write(os.environ.get("CLS_TOKEN", "") + ",")'
    (project.root / '.venv/bin/python').write_text(project.program(program))
    (home / 'cls.token').write_text('sent\n')
    assert project.run('tpu_worker.sh').returncode == 0
    assert not (home / 'cls.token').exists()
    assert project.run('tpu_worker.sh', CLS_TOKEN='given').returncode == 0
    assert project.run('tpu_worker.sh').returncode == 0
    assert (home / 'taken').read_text() == 'sent,given,,'


def test_what_the_dry_run_prints_is_what_it_does(cloud):
    lines = cloud.run('tpu.sh', *FLAGS, '--spot', '--dry_run', *TRAIN).stdout
    assert cloud.calls() == []
    cloud.states('NONE', 'ACTIVE')
    assert cloud.run('tpu.sh', *FLAGS, '--spot', *TRAIN).returncode == 0
    really = [call for call in cloud.calls() if call[0] != 'sleep' and 'describe' not in call]
    assert really.pop(0)[1:3] == ['storage', 'ls']  # the check for a result
    cloud.notes.unlink()
    subprocess.run(
        ['bash', '-ec', lines], cwd=cloud.root, env=cloud.environment(), check=True, timeout=60
    )
    assert cloud.calls() == really


def test_preempted_it_is_requested_again_and_goes_on(cloud):
    here = cloud.root.parent
    cloud.states('NONE', 'ACTIVE', 'SUSPENDING', 'SUSPENDED', 'NONE', 'ACTIVE')
    (here / 'codes').write_text('255 0')
    (here / 'results').write_text('1 1 1 0')
    done = cloud.run('tpu.sh', *FLAGS, '--spot', *TRAIN)
    assert done.returncode == 0, done.stderr
    train = ['scp', 'scp', 'ssh', 'worker.py']
    assert verbs(cloud) == ['create', *train, 'delete', 'create', *train, 'delete']
    assert 'preempted' in done.stderr


def test_saved_on_preemption_it_ends_with_0_but_not_the_run(cloud):
    cloud.states('ACTIVE', 'SUSPENDED', 'SUSPENDED', 'NONE', 'ACTIVE')
    (cloud.root.parent / 'results').write_text('1 1 1 0')
    assert cloud.run('tpu.sh', *FLAGS, *TRAIN).returncode == 0
    assert verbs(cloud).count('worker.py') == 2


@pytest.mark.parametrize(('code', 'exits'), [(1, 1), (2, 2)])
def test_a_run_that_fails_is_not_repeated_and_the_slice_stays(code, exits, cloud):
    cloud.states('ACTIVE')
    (cloud.root.parent / 'codes').write_text(str(code))
    (cloud.root.parent / 'results').write_text('1')
    failed = cloud.run('tpu.sh', *FLAGS, *TRAIN)
    assert failed.returncode == exits
    assert verbs(cloud) == ['scp', 'scp', 'ssh', 'worker.py']
    assert 'costs' in failed.stderr.splitlines()[-1]


def test_a_finished_run_needs_no_slice(cloud):
    (cloud.root.parent / 'results').write_text('0')
    cloud.states('NONE')
    assert cloud.run('tpu.sh', *FLAGS, *TRAIN).returncode == 0
    assert verbs(cloud) == []


def test_a_slice_that_a_finished_run_left_is_removed(cloud):
    (cloud.root.parent / 'results').write_text('0')
    cloud.states('ACTIVE')
    assert cloud.run('tpu.sh', *FLAGS, *TRAIN).returncode == 0
    assert verbs(cloud) == ['delete']


def test_a_failed_creation_is_not_repeated(cloud):
    cloud.states('NONE')
    gcloud = cloud.commands / 'gcloud'
    gcloud.write_text(gcloud.read_text() + "\nif verb == 'create':\n    sys.exit(1)\n")
    assert cloud.run('tpu.sh', *FLAGS, *TRAIN).returncode == 1
    assert verbs(cloud) == ['create']


def test_without_an_answer_nothing_is_made(cloud):
    cloud.states('UNKNOWN')
    failed = cloud.run('tpu.sh', *FLAGS, *TRAIN)
    assert failed.returncode == 1
    assert verbs(cloud) == []
    assert failed.stderr.splitlines()[0] == 'ERROR: no network'


def test_a_lost_answer_is_waited_for(cloud):
    cloud.states('PROVISIONING', 'UNKNOWN', 'ACTIVE')
    assert cloud.run('tpu.sh', *FLAGS, *TRAIN).returncode == 0
    assert verbs(cloud) == ['scp', 'scp', 'ssh', 'worker.py', 'delete']


def test_a_request_that_fails_is_not_repeated(cloud):
    cloud.states('NONE', 'FAILED')
    failed = cloud.run('tpu.sh', *FLAGS)
    assert failed.returncode == 1
    assert verbs(cloud) == ['create']
    assert 'gcloud compute tpus queued-resources describe run1' in failed.stderr


def test_what_is_not_committed_is_mentioned(cloud):
    (cloud.root / 'launch/README.md').write_text('changed')
    cloud.states('ACTIVE')
    assert 'not committed' in cloud.run('tpu.sh', *FLAGS).stderr


def test_the_worker_ends_what_an_earlier_start_left(project):
    home = project.root.parent
    code = 'import signal, sys, time; signal.signal(15, lambda *_: sys.exit()); '
    code += 'print(1, flush=True)\nwhile True: time.sleep(0.1)'
    earlier = subprocess.Popen([sys.executable, '-c', code, 'cls.main'], stdout=subprocess.PIPE)
    try:
        earlier.stdout.readline()
        (home / '.cls.pid').write_text(str(earlier.pid))
        # Its parent, this test, has to reap it.
        reaper = subprocess.Popen(
            ['bash', project.root / 'launch/tpu_worker.sh', '--workdir', 'gs://b/a b'],
            env=project.environment(),
            cwd=home,
        )
        assert earlier.wait(60) == 0
        assert reaper.wait(60) == 0
    finally:
        earlier.kill()
        earlier.wait()
    assert project.calls() == [['python', '-m', 'cls.main', '--workdir', 'gs://b/a b']]


def test_the_worker_leaves_other_processes_alone(project):
    home = project.root.parent
    other = subprocess.Popen(['sleep', '100'])
    try:
        (home / '.cls.pid').write_text(str(other.pid))
        assert project.run('tpu_worker.sh').returncode == 0
        assert other.poll() is None
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert int((home / '.cls.pid').read_text()) != other.pid


FAKE_MAIN = """
import pathlib, signal, sys, time
workdir = pathlib.Path(sys.argv[sys.argv.index('--workdir') + 1])
what = sys.argv[-1]
if what == 'finish':
    (workdir / 'result.json').write_text('{}')
elif what == 'wait':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (workdir / 'ready').touch()
    signal.pause()
elif what.isdigit():
    sys.exit(int(what))
elif what == 'die':
    import os
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ('what', 'code'), [('finish', 0), ('stop', 42), ('2', 2), ('die', 137), ('wait', 42)]
)
def test_exit_codes_on_gke(what, code, tmp_path):
    (tmp_path / 'cls').mkdir()
    (tmp_path / 'cls/main.py').write_text(FAKE_MAIN)
    worker = Path(__file__).parents[2] / 'launch/gke_worker.py'
    process = subprocess.Popen(
        [sys.executable, worker, '--workdir', tmp_path, what],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(tmp_path)},
    )
    try:
        while what == 'wait' and not (tmp_path / 'ready').exists():
            assert process.poll() is None
            time.sleep(0.02)
        if what == 'wait':
            process.terminate()
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait()
