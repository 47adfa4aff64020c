"""Common features of all scripts: style, help, flags, and dry runs that print a run's commands."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL = sorted([*(ROOT / 'launch').glob('*.sh'), ROOT / '.ci/run'])
LAUNCHERS = ('tpu.sh', 'gke.sh', 'slurm.sh')

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
[STORE] = PROJECT['optional-dependencies']['gcs']
TPU = ['--name=run1', '--zone=us-west4-a', '--type=v5litepod-16', '--workdir=gs://b/run1/']
GKE = ['--cluster=k', '--name=run1', '--type=v5litepod-16', '--image=i:1', '--workdir=gs://b/run1']
TRAIN = ['--', '--config', 'configs/resnet.py:imagenet2012', "--config.duration=it's 90 epochs"]
QUOTED = "--config configs/resnet.py:imagenet2012 '--config.duration=it'\\''s 90 epochs'"


def test_shellcheck_finds_nothing():
    check = Path(sys.executable).with_name('shellcheck')
    found = subprocess.run(
        [check, '--external-sources', '--source-path=SCRIPTDIR', *SHELL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize('script', [*LAUNCHERS, 'tpu_worker.sh', 'token.sh'])
def test_help_is_the_head_comment(script, project):
    shown = project.run(script, '--help')
    assert shown.returncode == 0, shown.stderr
    head = (ROOT / 'launch' / script).read_text().splitlines()[1:]
    head = head[: next(i for i, line in enumerate(head) if not line.startswith('#'))]
    assert shown.stdout.splitlines() == [line[2:] for line in head]
    assert f'launch/{script}' in shown.stdout


@pytest.mark.parametrize('script', LAUNCHERS)
@pytest.mark.parametrize(
    ('flags', 'says'),
    [
        (['--nodez=3'], '--nodez=3; known: --'),
        (['folder'], 'folder; known: --'),
        (['--workdir'], '--workdir needs a value'),
        (['--dry_run=1'], '--dry_run takes no value'),
        (['--dry_run'], 'is needed'),
    ],
)
def test_wrong_flags_are_one_line_and_code_2(script, flags, says, project):
    refused = project.run(script, *flags)
    assert refused.returncode == 2
    assert refused.stdout == ''
    [line] = refused.stderr.splitlines()
    assert line.startswith('error: ')
    assert says in line
    assert project.calls() == []


@pytest.mark.parametrize(
    ('script', 'flags', 'says'),
    [
        ('tpu.sh', [*TPU, '--slices=none'], "--slices is 'none'; expected 1, 2, ..."),
        ('tpu.sh', [*TPU, '--type=h100'], "--type is 'h100'; known: v5litepod-N"),
        ('tpu.sh', [*TPU, '--workdir=runs/1'], 'expected gs://BUCKET/RUN'),
        ('gke.sh', [*GKE, '--workdir=gs://b'], 'expected gs://BUCKET/RUN'),
        ('slurm.sh', ['--workdir=a', '--gpus=0'], "--gpus is '0'"),
    ],
)
def test_wrong_values_are_refused(script, flags, says, project):
    refused = project.run(script, *flags, '--dry_run')
    assert refused.returncode == 2
    assert says in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ('script', 'flags', 'name'),
    [('gke.sh', GKE, 'xpk'), ('slurm.sh', ['--workdir=a'], 'sbatch')],
)
def test_a_missing_tool_is_named(script, flags, name, project):
    for needed in ('bash', 'dirname'):
        (project.commands / needed).symlink_to(shutil.which(needed))
    refused = project.run(script, *flags, PATH=str(project.commands))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f'error: there is no command {name} here; ')
    assert len(refused.stderr.splitlines()) == 1


def test_dry_run_of_a_slice(project):
    shown = project.run('tpu.sh', *TPU, '--spot', '--dry_run', *TRAIN, TMPDIR='/tmp')
    inner = QUOTED.replace("'", "'\\''")
    queued = 'gcloud compute tpus queued-resources'
    assert shown.stdout.splitlines() == [
        f'{queued} create run1 --node-id=run1 --accelerator-type=v5litepod-16 '
        '--runtime-version=v2-alpha-tpuv5-lite --spot --zone=us-west4-a',
        '# and waits until it is ACTIVE',
        'git bundle create --quiet /tmp/cls-run1.bundle HEAD',
        f'{queued} scp /tmp/cls-run1.bundle run1:cls.bundle --node=all --worker=all '
        '--zone=us-west4-a',
        'launch/token.sh /tmp/cls-run1.token',
        f'{queued} scp /tmp/cls-run1.token run1:cls.token --node=all --worker=all '
        '--zone=us-west4-a',
        'rm /tmp/cls-run1.token',
        f"{queued} ssh run1 --node=all --worker=all '--command=git init --quiet cls && "
        'git -C cls fetch --quiet ~/cls.bundle HEAD && '
        'git -C cls checkout --quiet --force FETCH_HEAD && '
        f"exec cls/launch/tpu_worker.sh --workdir gs://b/run1 {inner}' --zone=us-west4-a",
        'gcloud storage ls gs://b/run1/result.json',
        f'{queued} delete run1 --force --quiet --zone=us-west4-a',
    ]
    assert project.calls() == []


def test_dry_run_of_several_slices(project):
    flags = ['--slices', '4', '--create_flags', '--reserved --network=wide', '--project', 'p']
    shown = project.run('tpu.sh', *TPU, '--type=v6e-16', *flags, '--keep', '--dry_run')
    lines = shown.stdout.splitlines()
    assert lines[0] == (
        'gcloud compute tpus queued-resources create run1 --node-count=4 --node-prefix=run1 '
        '--accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --reserved --network=wide '
        '--zone=us-west4-a --project=p'
    )
    assert not any('delete' in line for line in lines)


def test_dry_run_of_a_deletion(project):
    shown = project.run('tpu.sh', '--name=run1', '--zone=z', '--delete', '--dry_run')
    assert shown.stdout == (
        'gcloud compute tpus queued-resources delete run1 --force --quiet --zone=z\n'
    )


def test_dry_run_on_gke(project):
    flags = ['--slices=2', '--zone=z', '--xpk_flags=--spot --priority=high', '--build']
    shown = project.run('gke.sh', *GKE, *flags, '--dry_run', *TRAIN)
    inner = QUOTED.replace("'", "'\\''")
    assert shown.stdout.splitlines() == [
        'docker build --file launch/Dockerfile --build-arg ACCELERATOR=tpu --tag i:1 .',
        'docker push i:1',
        'export CLS_TOKEN="${CLS_TOKEN:-$(launch/token.sh)}"',
        'xpk workload create --cluster=k --workload=run1 --tpu-type=v5litepod-16 --num-slices=2 '
        '--docker-image=i:1 --max-restarts=100 --restart-on-exit-codes=1 '
        '--termination-grace-period-seconds=300 --env-file=launch/token.env --zone=z '
        '--spot --priority=high '
        f"'--command=exec python launch/gke_worker.py --workdir gs://b/run1 {inner}'",
    ]


def test_a_run_on_gke_is_its_dry_run(project):
    # xpk takes the token from its environment; its file has only the name.
    taken = project.notes.parent / 'tokens'
    project.command('docker')
    project.command('xpk', f'print(os.environ["CLS_TOKEN"], file=open({str(taken)!r}, "a"))')
    lines = project.run('gke.sh', *GKE, '--build', '--dry_run', *TRAIN).stdout
    assert project.calls() == []
    assert project.run('gke.sh', *GKE, '--build', *TRAIN).returncode == 0
    really = project.calls()
    assert [call[0] for call in really] == ['docker', 'docker', 'xpk']
    project.notes.unlink()
    subprocess.run(['bash', '-ec', lines], env=project.environment(), check=True)
    assert project.calls() == really
    tokens = taken.read_text().split()
    assert [len(token) for token in tokens] == [32, 32]
    assert tokens[0] != tokens[1]
    assert not any(token in str(really) for token in tokens)
    assert (ROOT / 'launch/token.env').read_text().splitlines()[1:] == ['CLS_TOKEN']


def test_an_image_that_cannot_be_built_is_not_launched(project):
    project.command('docker', 'sys.exit(1)')
    project.command('xpk')
    assert project.run('gke.sh', *GKE, '--build').returncode == 1
    assert project.calls('xpk') == []


def test_a_token_is_for_its_user_only(project, tmp_path):
    first, second = project.run('token.sh').stdout, project.run('token.sh').stdout
    assert len(first) == len(second) == 33
    assert first != second
    file, victim = tmp_path / 'token', tmp_path / 'victim'
    victim.write_text('kept')
    file.symlink_to(victim)
    assert project.run('token.sh', str(file)).returncode == 0
    assert (victim.read_text(), file.is_symlink()) == ('kept', False)
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text()) == 33
    project.run('token.sh', str(file), CLS_TOKEN='chosen before')
    assert file.read_text() == 'chosen before\n'


@pytest.mark.parametrize(
    'arguments', [['--nonsense'], ['-f'], ['one', 'two'], ['--dry_run', 'file']]
)
def test_a_token_is_not_written_to_a_file_with_the_name_of_a_flag(project, arguments):
    refused = project.run('token.sh', *arguments)
    assert (refused.returncode, refused.stdout) == (2, '')
    assert refused.stderr.startswith('error: unexpected arguments: ')
    assert refused.stderr.count('\n') == 1


def test_dry_run_on_slurm(project):
    flags = ['--nodes=4', '--sbatch_flags=--partition=gpu --account=us']
    shown = project.run('slurm.sh', '--workdir=runs/a/', *flags, '--dry_run', *TRAIN)
    assert shown.stdout.splitlines() == [
        'mkdir -p runs',
        'sbatch --job-name=cls-a --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 '
        '--cpus-per-task=8 --time=24:00:00 --requeue --signal=TERM@300 --output=runs/a.log '
        f'--open-mode=append --partition=gpu --account=us {project.root}/launch/slurm_job.sh '
        f'{project.root} runs/a {QUOTED}',
    ]
    one = project.run('slurm.sh', '--workdir=runs/a', '--per_node', '--dry_run').stdout
    assert '--gpus-per-node=8 --ntasks-per-node=1 ' in one
    assert project.calls() == []


@pytest.mark.parametrize(('has_venv', 'keeps'), [(True, True), (False, True), (False, False)])
def test_a_run_on_slurm_is_its_dry_run(has_venv, keeps, project, monkeypatch):
    """Also with the installations of a new checkout: a shell has all these commands."""
    monkeypatch.setenv('PYTHONDONTWRITEBYTECODE', '' if keeps else '1')
    project.command('sbatch')
    stamp = project.root / '.venv/.installed-launch-requirements-cuda.txt'
    if not has_venv:
        stamp.unlink()
        # pip's own output, with the version of its Python.
        version = f'{sys.version_info.major}.{sys.version_info.minor}'
        python = project.root / '.venv/bin/python'
        says = f"'--version' in sys.argv and print('pip 26 from here (python {version})')"
        python.write_text(project.program(says))
    flags = ['--workdir=runs/a', *TRAIN]
    lines = project.run('slurm.sh', '--dry_run', *flags).stdout
    asked = [call for call in project.calls() if call[1:] != ['-m', 'pip', '--version']]
    assert asked == []
    project.notes.unlink(missing_ok=True)
    done = project.run('slurm.sh', *flags)
    assert done.returncode == 0, done.stderr
    really = [call for call in project.calls() if call[1:] != ['-m', 'pip', '--version']]
    # Of pip itself, the requirements, their files compiled if Python does not keep them, and the
    # command.
    modules = [] if has_venv else ['pip', 'pip', *([] if keeps else ['compileall']), 'pip']
    assert [call[0:3:2] for call in really[:-1]] == [['python', name] for name in modules]
    assert really[-1][0] == 'sbatch'
    project.notes.unlink()
    subprocess.run(
        ['bash', '-ec', lines], env=project.environment(), cwd=project.root.parent, check=True
    )
    assert project.calls() == really


def test_where_pip_cannot_be_updated_it_installs_all_the_same(project):
    project.command('sbatch')
    (project.root / '.venv/.installed-launch-requirements-cuda.txt').unlink()
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    says = (
        f"'--version' in sys.argv and print('pip 23 from here (python {version})')\n"
        "sys.exit('pip>=26' in sys.argv)"
    )
    (project.root / '.venv/bin/python').write_text(project.program(says))
    done = project.run('slurm.sh', '--workdir=runs/a', *TRAIN)
    assert done.returncode == 0, done.stderr
    assert 'The pip of .venv stays as it is' in done.stderr
    requirements = str(project.root / 'launch/requirements-cuda.txt')
    assert any(call[-1] == requirements for call in project.calls('python'))
    assert project.calls('sbatch')


def test_relative_paths_are_those_of_the_caller(project):
    """They are not those of the checkout, although the scripts change to it."""
    away = project.root.parent / 'away'
    away.mkdir()
    project.command('sbatch', f"open({str(away)!r} + '/where', 'w').write(os.getcwd())")
    environment = project.environment()
    script = project.root / 'launch/slurm.sh'
    subprocess.run(
        ['bash', script, '--workdir=new/a', *TRAIN], cwd=away, env=environment, check=True
    )
    assert (away / 'where').read_text() == str(away)
    assert (away / 'new').is_dir()
    says = "open('here', 'w').write(os.environ['PYTHONPATH'])"
    (project.root / '.venv/bin/cls').write_text(project.program(says))
    stamp = project.root / '.venv/.installed-launch-requirements-cuda.txt'
    stamp.rename(stamp.with_name('.installed-requirements.txt'))
    script = project.root / 'launch/quickstart.sh'
    subprocess.run(['bash', script, '--workdir=b'], cwd=away, env=environment, check=True)
    assert (away / 'here').read_text().split(':')[0] == str(project.root)
    assert project.calls('cls') == [['cls', 'train', '--config', 'amoebanet', '--workdir=b']]


def test_the_dockerfile_installs_files_that_are_there():
    text = (ROOT / 'launch' / 'Dockerfile').read_text()
    # tpu.sh and gke.sh insist on run folders at gs://.
    for accelerator, extra in (('tpu', ['jax[tpu]', STORE]), ('cuda', ['jax[cuda13]'])):
        lines = (ROOT / f'launch/requirements-{accelerator}.txt').read_text().splitlines()
        assert lines[1:] == ['-r ../requirements.txt', *extra]
        assert accelerator in text
    assert 'launch/requirements-$ACCELERATOR.txt' in text
    assert '--shm-size' in text
