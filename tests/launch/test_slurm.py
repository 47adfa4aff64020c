"""launch/slurm.sh with stubs of Slurm's commands that start real processes on this machine."""

import json

import pytest

FLAGS = ['--workdir=runs/a', '--nodes=2', '--gpus=2', '--cpus=3']
TRAIN = ['--', '--config', 'configs/resnet.py', "--config.duration=it's 9 epochs"]

# Runs the script as the job, and again each time that it queues itself.
SBATCH = """
import subprocess
options = dict(a.lstrip('-').split('=', 1) for a in sys.argv[1:] if a.startswith('--') and '=' in a)
start = next(i for i, a in enumerate(sys.argv) if i and not a.startswith('--'))
tasks = int(options['nodes']) * int(options['ntasks-per-node'])
job = {
    'SLURM_JOB_ID': '7',
    'SLURM_JOB_NUM_NODES': options['nodes'],
    'SLURM_NTASKS': str(tasks),
    'SLURM_NTASKS_PER_NODE': options['ntasks-per-node'],
    'SLURM_CPUS_PER_TASK': options['cpus-per-task'],
    'SLURM_TRES_PER_TASK': 'cpu=9',
    'SLURM_EXPORT_ENV': 'NONE',  # of sbatch --export=NONE
}
for restart in range(4):
    before = open(NOTES).read().count('"scontrol", "requeue", "7"')
    with open(options['output'], 'a') as output:
        code = subprocess.call(
            ['bash', *sys.argv[start:]],
            env=os.environ | job | {'SLURM_RESTART_COUNT': str(restart)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if open(NOTES).read().count('"scontrol", "requeue", "7"') == before:
        break
print('ended with', code)
"""

# One process for each task; PLAN has the events of each start of the job.
SRUN = """
import pathlib, signal, subprocess, time
if 'SLURM_EXPORT_ENV' in os.environ:
    sys.exit('srun: the environment is not handed on')
if 'SLURM_TRES_PER_TASK' in os.environ:
    sys.exit('srun: fatal: cpus-per-task set by two different environment variables')
restart, tasks = int(os.environ['SLURM_RESTART_COUNT']), int(os.environ['SLURM_NTASKS'])
event = PLAN[restart]
if '--overlap' in sys.argv:  # whether all nodes answer
    sys.exit(event == 'lose')
words = [a for i, a in enumerate(sys.argv) if i and not a.startswith('--kill')]
ready = pathlib.Path(NOTES).parent / f'ready{restart}'
ready.mkdir()
variables = os.environ | {'EVENT': event, 'READY': str(ready)}
processes = [
    subprocess.Popen(words, env=variables | {'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)})
    for i in range(tasks)
]
while len(list(ready.iterdir())) < tasks:
    time.sleep(0.02)
for process in processes:
    if event == 'term':
        process.terminate()
    if event == 'all':  # as preemption does it: the script's shell gets it too
        process.terminate()
if event == 'all':
    os.kill(os.getppid(), signal.SIGTERM)
codes = [process.wait() for process in processes]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""

TASK = """
import pathlib, signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
workdir = pathlib.Path(sys.argv[sys.argv.index('--workdir') + 1])
index = os.environ['SLURM_PROCID']
with open(f'{NOTES}-tokens', 'a') as file:
    print(os.environ['EVENT'], os.environ['CLS_TOKEN'], file=file)
with open(f'{NOTES}-{index}', 'a') as file:
    print(os.environ['EVENT'], os.environ['SRUN_CPUS_PER_TASK'], file=file)
pathlib.Path(os.environ['READY'], index).touch()
if os.environ['EVENT'] in ('term', 'all'):
    signal.pause()
if os.environ['EVENT'] == 'finish' and index == '0':
    workdir.mkdir()
    (workdir / 'result.json').write_text('{}')
if os.environ['EVENT'] in ('fail', 'lose') and index == '1':
    sys.exit(3)
"""


@pytest.fixture
def slurm(project):
    """A function: (events of each start of the job, its state) -> a cluster."""

    def make(*plan, state='RUNNING'):
        head = f'NOTES = {str(project.notes)!r}\nPLAN = {plan!r}\n'
        project.command('sbatch', head + SBATCH)
        project.command('srun', head + SRUN)
        project.command('scontrol')
        project.command('squeue', f'print({state!r})')
        python = project.root / '.venv/bin/python'
        python.write_text(project.program(head + TASK))
        return project

    return make


def requeued(project):
    return len([call for call in project.calls('scontrol') if call[1:] == ['requeue', '7']])


def starts(project, task):
    return (project.notes.parent / f'notes-{task}').read_text().splitlines()


@pytest.mark.parametrize('signalled', ['term', 'all'])
def test_stopped_before_the_end_it_is_queued_again(signalled, slurm):
    project = slurm(signalled, 'term', 'finish')
    done = project.run('slurm.sh', *FLAGS, *TRAIN)
    assert done.stdout.splitlines()[-1] == 'ended with 0', done.stderr
    assert requeued(project) == 2
    assert [starts(project, task) for task in range(4)] == [
        [f'{signalled} 3', 'term 3', 'finish 3']
    ] * 4
    calls = [call for call in project.calls('python') if call[1] == '-m']
    assert calls == [['python', '-m', 'cls.main', '--workdir', 'runs/a', *TRAIN[1:]]] * 12
    log = (project.root.parent / 'runs/a.log').read_text()
    assert log.count('stopped before the end; job 7 is RUNNING.') == 2


def test_the_processes_of_each_start_have_a_token_of_their_own(slurm):
    project = slurm('term', 'finish')
    project.run('slurm.sh', *FLAGS, *TRAIN)
    lines = (project.notes.parent / 'notes-tokens').read_text().splitlines()
    starts = [
        {token for event, token in map(str.split, lines) if event == e} for e in ('term', 'finish')
    ]
    assert len(lines) == 8
    assert [len(tokens) for tokens in starts] == [1, 1]
    assert starts[0] != starts[1]
    assert {len(token) for tokens in starts for token in tokens} == {32}
    assert not any(token in str(project.calls()) for tokens in starts for token in tokens)


def test_finished_it_is_not_queued_again(slurm):
    project = slurm('finish')
    assert 'ended with 0' in project.run('slurm.sh', *FLAGS, *TRAIN).stdout
    assert requeued(project) == 0
    assert '--kill-on-bad-exit=1' in project.calls('srun')[0]


def test_a_failure_is_the_jobs(slurm):
    project = slurm('fail')
    assert 'ended with 3' in project.run('slurm.sh', *FLAGS, *TRAIN).stdout
    assert requeued(project) == 0


def test_when_a_node_is_lost_it_is_queued_again(slurm):
    project = slurm('lose', 'finish')
    assert 'ended with 0' in project.run('slurm.sh', *FLAGS, *TRAIN).stdout
    assert requeued(project) == 1
    log = (project.root.parent / 'runs/a.log').read_text()
    assert 'a node was lost; job 7 is RUNNING.' in log


@pytest.mark.parametrize('state', ['CANCELLED', 'PENDING', 'COMPLETING'])
def test_cancelled_or_queued_by_slurm_it_is_left_alone(state, slurm):
    project = slurm('term', state=state)
    assert 'ended with 0' in project.run('slurm.sh', *FLAGS, *TRAIN).stdout
    assert requeued(project) == 0


def test_one_process_for_each_node(slurm):
    project = slurm('finish')
    project.run('slurm.sh', *FLAGS, '--per_node', *TRAIN)
    assert [json.dumps(call[1:3]) for call in project.calls('python')].count(
        '["-m", "cls.main"]'
    ) == 2
