"""Real runs attacked over loopback by tests/attacked.py, their listening address and token."""

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import attacked
import pytest
from scenes import codes, play

from cls.distributed import agreement, listening, run_token
from cls.errors import UserError

HERE = Path(__file__).parents[1]
NOT_OURS = 'sent what no process of a run sends ('
REFUSED = (
    'WARNING: refused a process at 127.0.0.1 that has another token: CLS_TOKEN has to be the same '
    'for all processes of a run.\n'
)


@pytest.fixture(scope='module')
def made():
    """The results of all attacks: attack -> [exit code, stdout, stderr] of each process."""
    return play('attacked.py')


@pytest.mark.parametrize('name', attacked.STRANGERS)
def test_a_stranger_changes_nothing(name, made):
    scene = made[f'stranger {name}']
    assert codes(scene) == [0, 0, 0, 0]
    assert [out for _, out, _ in scene] == ['[0, 1, 2]\n'] * 3 + ['']
    assert scene[0][2] in ('', REFUSED)
    assert [error for _, _, error in scene[1:]] == ['', '', '']


def test_more_connections_than_process_0_may_have_files(made):
    assert made['few_files'] == [[0, '[0, 1, 2]\n', '']] * 3 + [[0, '', '']]


def test_nobody_listens_once_all_are_there(made):
    scene = made['afterwards']
    assert scene == [[0, '[0, 1, 2]\n', '']] * 3 + [[0, '', '']]


@pytest.mark.parametrize('name', attacked.LIARS)
def test_a_listener_in_the_place_of_process_0_is_not_believed(name, made):
    scene = made[f'liar {name}']
    assert codes(scene) == [0, 0, 0, 0]
    assert [out for _, out, _ in scene] == ['[0, 1, 2]\n'] * 3 + ['']
    for _, _, error in scene:
        assert re.fullmatch('(WARNING: .* is not process 0 of this run yet .*\n)?', error)


SAY_OTHERWISE = {
    'answer_is_a_number': "process 2 answers 'next' as no process of a run does",
    'answer_is_too_long': "process 2 answers 'next' as no process of a run does",
    'problem_is_a_number': "process 2 answers 'next' as no process of a run does",
    'other_place': "the processes are at different places: 'next' here, 'elsewhere' on process 2",
    'ends_early': 'process 2 of 3 has ended, but process 0 waits for it (begun)',
    'first_answers_too_few': "process 0 answers 'next' with no list of 3 values.",
    'first_ends_early': 'process 0 of 3 has ended, but process 1 waits for it (begun)',
    'thread_fails': 'process 1 cannot hear the others: ',
}


@pytest.mark.parametrize('name', attacked.INSIDERS)
def test_an_invalid_message_of_a_process_ends_the_run(name, made):
    scene = made[f'insider {name}']
    itself = {'ends_early': 2, 'first_ends_early': 0}.get(name)  # it does not notice a fault
    assert codes(scene) == [0 if index == itself else 1 for index in range(3)]
    assert [out for _, out, _ in scene] == ['', '', '']
    lines = [line for _, _, error in scene for line in error.splitlines()]
    culprit = 0 if name.startswith('first') else 2
    expected = SAY_OTHERWISE.get(name, f'error: process {culprit} of 3 {NOT_OURS}')
    assert any(expected in line for line in lines)
    if name != 'other_place':  # a fault in the program: with a traceback
        assert all(line.startswith('error: ') and len(line) < 700 for line in lines)


@pytest.mark.parametrize('name', attacked.DOOR)
def test_a_process_with_a_wrong_hello_is_named(name, made):
    scene = made[f'door {name}']
    assert codes(scene) == [2, 2, 2]
    (line,) = scene[0][2].splitlines()
    expected = {
        'index_is_taken': 'error: two processes have the index 1, on ',
        'index_is_0': 'error: two processes have the index 0, on ',
        'index_is_large': 'error: process 3 on a is not in 0 to 2: start each with',
        'huge_number': 'error: process 1000',
        'count_is_other': 'error: process 2 on a expects 4 processes, process 0 expects 3: ',
    }
    assert line.startswith(expected.get(name, 'error: a process sent a malformed hello ('))


def test_two_tokens_are_distinguished_on_both_sides(made):
    (code, _, first), (other_code, _, other) = made['other_tokens']
    assert (code, other_code) == (2, 2)
    assert re.search(r'\d+ connections with another token were refused \(from 127.0.0.1; ', first)
    assert 'did not come within 4 s' in first
    assert 'it has another token; CLS_TOKEN has to be the same for all processes' in other


def test_without_a_token_and_with_one_of_an_earlier_run_in_the_file(made):
    assert made['without_token'] == [[0, '[0, 1, 2]\n', '']] * 3
    assert made['token_of_a_killed_run'] == [[0, '[0, 1, 2] False\n', '']] * 3


# ------------------------------------------------------------------------------------------------
# The listening address
# ------------------------------------------------------------------------------------------------


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def listens_at(host):
    """Returns the addresses that process 0 listens on, and those of JAX's service."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        listeners = listening.listen(stack, (host, port), 0)
        names = {listener.getsockname()[0] for listener in listeners}
    return names, agreement._bind_address(host, port), port


def named(addresses):
    """Returns a resolver that knows one name."""

    def getaddrinfo(host, port, *rest, **more):
        if host != 'node1':
            return real(host, port, *rest, **more)
        return [entry for a in addresses for entry in real(a, port, *rest, **more)]

    real = socket.getaddrinfo
    return getaddrinfo


def own_address():
    """Returns an address of this machine that is not loopback, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(('192.0.2.1', 9))  # sends nothing
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith('127.') else address


def test_a_loopback_run_listens_on_loopback():
    # Linux has more addresses than one.
    for host in ('127.0.0.1', '127.0.0.2') if sys.platform == 'linux' else ('127.0.0.1',):
        names, service, port = listens_at(host)
        assert (names, service) == ({host}, f'{host}:{port}')
    names, service, port = listens_at('localhost')
    assert names and names <= {'127.0.0.1', '::1'}
    assert service in (f'localhost:{port}', f'127.0.0.1:{port}', f'[::1]:{port}')


@pytest.mark.skipif(not own_address(), reason='this machine has no address but loopback')
def test_a_name_of_this_host_listens_on_its_address(monkeypatch, capsys):
    own = own_address()
    monkeypatch.setattr(socket, 'getaddrinfo', named([own]))
    for host in (own, 'node1'):
        names, service, port = listens_at(host)
        assert (names, service) == ({own}, f'{own}:{port}')
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    'addresses',
    [
        ['127.0.1.1'],  # Debian's address of a host's own name
        ['203.0.113.7'],  # behind NAT, or a service of Kubernetes
        [],
    ],
)
def test_a_name_that_others_know_otherwise_listens_everywhere_and_says_so(
    addresses, monkeypatch, capsys
):
    monkeypatch.setattr(socket, 'getaddrinfo', named(addresses))
    names, service, port = listens_at('node1')
    assert names <= {'::', '0.0.0.0'}
    assert service in (None, f'0.0.0.0:{port}')
    line = capsys.readouterr().err
    assert line.startswith('WARNING: node1 is not an address of any interface of this host: ')
    assert line.count('\n') == 1


# ------------------------------------------------------------------------------------------------
# The token
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'host, expected',
    [
        ('localhost', True),
        ('127.0.0.1', True),
        ('127.9.9.9', True),
        ('::1', True),
        ('10.0.0.1', False),
        ('0.0.0.0', False),
        ('fe80::1', False),
        ('node1', False),
        (socket.gethostname(), socket.gethostname() == 'localhost'),  # whatever it resolves to
    ],
)
def test_what_is_loopback(host, expected):
    assert run_token.is_loopback(host) is expected


def test_the_token_of_a_run():
    environment = {'CLS_TOKEN': ' 0123456789abcdef\n', 'PATH': '/bin'}
    assert run_token.choose('node1', 'flags', False, environment) == '0123456789abcdef'
    assert environment == {'PATH': '/bin'}
    assert run_token.choose('127.0.0.1', 'flags', False, {'CLS_TOKEN': 'x' * 16}) == 'x' * 16
    assert run_token.choose('127.0.0.1', 'flags', False, {}) is None
    assert run_token.choose('127.0.0.1', 'flags', True, {}) == ''
    assert run_token.choose('node1', 'flags', True, {}) == ''


@pytest.mark.parametrize(
    'launcher, no_token, token, words',
    [
        ('flags', False, '', 'export CLS_TOKEN=.* on one host and the same value on all others'),
        ('Slurm', False, '', 'export CLS_TOKEN=.* before srun'),
        ('Open MPI', False, '', 'mpirun -x CLS_TOKEN'),
        ('Kubernetes', False, '', 'a Secret in the environment of every pod'),
        ('the TPU slice of GKE', False, '', '--no_token where nobody else can reach'),
        ('flags', False, 'short', 'CLS_TOKEN has 5 characters: expected 16 or more'),
        ('flags', True, 'x' * 16, '--no_token is given and CLS_TOKEN is set'),
    ],
)
def test_several_hosts_need_a_token(launcher, no_token, token, words):
    with pytest.raises(UserError, match=words) as error:
        run_token.choose('node1', launcher, no_token, {'CLS_TOKEN': token})
    assert '\n' not in str(error.value)


def test_a_run_over_several_hosts_without_a_token_does_not_start():
    flags = argparse.Namespace(
        coordinator=f'0.0.0.0:{free_port()}',
        process_count=2,
        process_index=0,
        join_timeout=1,
        no_token=False,
    )
    with pytest.raises(UserError, match=r'by flags\) meet at 0.0.0.0 and have no token'):
        agreement.start(flags)
    flags.no_token = True
    with pytest.raises(UserError, match='process 1 of 2 .* did not come within 1 s'):
        agreement.start(flags)


def test_the_command_of_the_message_makes_a_token():
    with pytest.raises(UserError) as error:
        run_token.choose('node1', 'flags', False, {})
    command = re.search('`(.*?)`', str(error.value))[1]
    command = command.replace('python', sys.executable)
    made = subprocess.check_output(['sh', '-c', f'{command}; echo $CLS_TOKEN'], text=True).strip()
    assert run_token.choose('node1', 'flags', False, {'CLS_TOKEN': made}) == made


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(run_token.tempfile, 'gettempdir', lambda: str(tmp_path))
    return tmp_path


def test_the_file_of_a_token_is_for_its_user_only(temporary):
    assert run_token.read(1234) == ''
    umask = os.umask(0)
    try:
        token = run_token.create(1234)
    finally:
        os.umask(umask)
    file = run_token.path(1234)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert (file.read_text(), run_token.read(1234)) == (token, token)
    assert run_token.create(1234) != token  # that of the next run at the same port
    run_token.remove(1234)
    assert list(file.parent.iterdir()) == []


def test_a_folder_that_others_can_change_is_not_used(temporary):
    folder = run_token.path(1234).parent
    folder.mkdir()
    folder.chmod(0o777)
    (folder / 'token-1234').write_text('planted')
    for use in (run_token.create, run_token.read):
        with pytest.raises(UserError, match='is not a private folder of this user'):
            use(1234)
    assert (folder / 'token-1234').read_text() == 'planted'


def test_a_link_in_the_place_of_the_folder_or_file_is_not_followed(temporary):
    folder = run_token.path(1234).parent
    (temporary / 'elsewhere').mkdir(mode=0o700)
    folder.symlink_to(temporary / 'elsewhere')
    with pytest.raises(UserError, match='is not a private folder'):
        run_token.create(1234)
    folder.unlink()
    folder.mkdir(mode=0o700)
    victim = temporary / 'victim'
    victim.write_text('kept')
    run_token.path(1234).symlink_to(victim)
    run_token.create(1234)
    assert victim.read_text() == 'kept'


def test_a_folder_that_cannot_be_made_is_one_line(temporary, monkeypatch):
    (temporary / 'file').touch()
    monkeypatch.setattr(run_token.tempfile, 'gettempdir', lambda: str(temporary / 'file'))
    with pytest.raises(UserError, match='cannot be written .* CLS_TOKEN'):
        run_token.create(1234)
    assert run_token.read(1234) == ''
