"""Attacks over loopback on runs of three processes, without JAX.

`python tests/attacked.py` runs all attacks and prints output and exit code of each process as JSON
(see linked.py); tests/distributed/test_rendezvous_attacks.py has the expected results.

STRANGERS do not know the token, and a run ends as without them. LIARS listen at the address of
process 0. INSIDERS are process 2 or process 0 of a run, and end it. So do those at the DOOR: they
have the token but send a wrong hello.
"""

import contextlib
import functools
import itertools
import json
import os
import random
import resource
import socket
import struct
import threading
import time
from pathlib import Path

from linked import join, play

from cls.distributed import agreement, rendezvous, run_token
from cls.distributed.peers import proof
from cls.distributed.preemption import Preemption

TOKEN = 'a token that only these three know'
OTHER = b'another token of the same length..'
ATTACKER = 3


def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.02)


def call(port):
    """Returns a connection to process 0, as soon as it listens."""
    while True:
        try:
            return socket.create_connection(('127.0.0.1', port), 30)
        except OSError:
            time.sleep(0.02)


def nonce_of(connection):
    return connection.recv(100).split()[-1]


def hello(theirs, key, index=1, count=3, ours=b'0' * 32, text=None):
    """Returns the hello of a process with a token."""
    text = text or json.dumps({'index': index, 'count': count, 'host': 'elsewhere'}).encode()
    return ours + b' ' + proof(key, b'hello', theirs, ours, text) + b' ' + text + b'\n'


def send(connection, data):
    with contextlib.suppress(OSError):  # disconnected by the other side
        connection.sendall(data)


# ------------------------------------------------------------------------------------------------
# Strangers, before the rendezvous is over. Their connections stay open until the run has ended.
# ------------------------------------------------------------------------------------------------


def says(*data, times=1):
    """Returns a stranger that sends messages on each connection, whatever it receives."""

    def attack(port):
        connections = [call(port) for _ in range(times)]
        for connection in connections:
            for part in data:
                send(connection, part)
        return connections

    return attack


def message(**fields):
    return json.dumps(fields).encode() + b'\n'


def introduces(key=OTHER, times=1, **fields):
    """Returns a stranger that takes part in the handshake with another token."""

    def attack(port):
        connections = [call(port) for _ in range(times)]
        for connection in connections:
            send(connection, hello(nonce_of(connection), key, **fields))
        return connections

    return attack


def flood(port):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2000), most))
    return [call(port) for _ in range(600)]


def resets(port):
    for _ in range(100):
        connection = call(port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        connection.close()


def half_closed(port):
    connections = [call(port) for _ in range(20)]
    for connection in connections:
        connection.shutdown(socket.SHUT_WR)
    return connections


def byte_by_byte(port):
    connections = [call(port) for _ in range(20)]

    def drip():
        for byte in itertools.cycle(b'0123456789abcdef'):
            for connection in connections:
                send(connection, bytes([byte]))
            time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    return connections


def replayed(port):
    """Sends a proof that was valid on another connection, as if overheard."""
    first, second = call(port), call(port)
    line = hello(nonce_of(first), TOKEN.encode())
    nonce_of(second)
    send(second, line)
    return [first, second]


def mirrored(port):
    """Sends process 0 its own nonces: in a hello on one connection, as a greeting on another."""
    first, second = call(port), call(port)
    nonces = nonce_of(first), nonce_of(second)
    send(first, hello(nonces[1], OTHER, ours=nonces[0]))
    send(second, b'cls 1 ' + nonces[0] + b'\n')
    return [first, second]


def proof_cut_short(port):
    connection = call(port)
    line = hello(nonce_of(connection), TOKEN.encode())
    send(connection, line[:60])  # a valid prefix would allow guesses digit by digit
    send(connection, b'\n')
    return [connection]


def other_hello(port):
    """Sends a proof of another hello."""
    connection = call(port)
    line = hello(nonce_of(connection), TOKEN.encode(), index=1)
    send(connection, line.replace(b'"index": 1', b'"index": 2'))
    return [connection]


STRANGERS = {
    'idle': says(times=200),
    'flood': flood,
    'resets': resets,
    'half_closed': half_closed,
    'byte_by_byte': byte_by_byte,
    'http': says(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'),
    'tls': says(bytes.fromhex('16030100a5010000a10303') + bytes(200)),
    'noise': says(random.Random(0).randbytes(2**20)),
    'empty_lines': says(b'\n' * 1000, times=20),
    'nulls': says(bytes(511) + b'\n'),
    'a_line_without_end': says(b'x' * 2**23),
    'as_long_as_allowed': says(b'x' * 512),
    'deep_json': says(b'[' * 400 + b'\n', b'[' * 10**6 + b'\n'),
    'no_proof': says(b'0' * 32 + b' ' + b'0' * 64 + b' {"index": 1, "count": 3, "host": "a"}\n'),
    'hello_of_old': says(message(index=1, count=3, host='a'), times=20),
    'stop_with_0': says(message(kind='stop', text='', code=0)),
    'failed': says(message(kind='failed', text='over', code=2)),
    'go': says(message(kind='go'), message(kind='value', name='here', value=[7, 7, 7])),
    'leave': says(message(kind='signal', message={'what': 'stop', 'last': None})),
    'other_token': introduces(times=20),
    'empty_token': introduces(key=b''),
    'others_index': introduces(index=2, times=20),
    'index_0': introduces(index=0),
    'other_count': introduces(count=4),
    'more_after_the_hello': introduces(text=b'{}\n{"kind": "stop", "text": "", "code": 0}'),
    'replayed': replayed,
    'mirrored': mirrored,
    'proof_cut_short': proof_cut_short,
    'other_hello': other_hello,
}


def attacked(index, port, attack):
    if index == ATTACKER:
        connections = attack(port)
        Path('under-way').touch()
        wait_for('over')
        del connections
        return
    if index:
        wait_for('under-way')
    join(index, 3, port, token=TOKEN)
    print(agreement.gather('here', index))
    if index == 0:
        Path('over').touch()
    agreement.peers.end()


def few_files(index, port):
    """Limits the open files of process 0 below the number of idle connections."""
    if index == 0:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, most))
    attacked(index, port, STRANGERS['idle'])


def afterwards(index, port):
    """Checks that nobody listens after all processes have connected."""
    if index == ATTACKER:
        wait_for('met')
        with contextlib.suppress(OSError):
            socket.create_connection(('127.0.0.1', port), 5)
            print('connected')
        Path('under-way').touch()
        return
    join(index, 3, port, token=TOKEN)
    if index == 0:
        Path('met').touch()
    wait_for('under-way')
    print(agreement.gather('here', index))
    agreement.peers.end()


# ------------------------------------------------------------------------------------------------
# Listeners at the address of process 0
# ------------------------------------------------------------------------------------------------


def answers(*data):
    def lie(connection):
        for part in data:
            send(connection, part)
        with contextlib.suppress(OSError):
            connection.settimeout(0.5)
            connection.recv(1000)

    return lie


def echoes(connection):
    send(connection, b'cls 1 ' + b'0' * 32 + b'\n')
    with contextlib.suppress(OSError):
        connection.settimeout(0.5)
        send(connection, connection.recv(1000))


def knows_another_token(connection):
    theirs = b'0' * 32
    send(connection, b'cls 1 ' + theirs + b'\n')
    with contextlib.suppress(OSError):
        connection.settimeout(0.5)
        ours, _, text = connection.recv(1000).rstrip(b'\n').split(b' ', 2)
        send(connection, proof(OTHER, b'welcome', theirs, ours, text) + b'\n')
        send(connection, message(kind='go') + message(kind='stop', text='', code=0))


def hangs_up(connection):
    """Closes the connection without a message."""


GREETING = b'cls 1 ' + b'0' * 32 + b'\n'
END = message(kind='go') + message(kind='stop', text='', code=0)
LIARS = {
    'lets_go': answers(END),
    'greets_and_lets_go': answers(GREETING, b'0' * 64 + b'\n' + END),
    'refuses': answers(GREETING, message(kind='refused', text='go away')),
    'denies': answers(GREETING, b'denied\n'),
    'never_ends_a_line': answers(b'cls 1 ' * 10**6),
    'other_version': answers(b'cls 2 ' + b'0' * 32 + b'\n'),
    'ssh': answers(b'SSH-2.0-OpenSSH_9.6\r\n'),
    'echoes': echoes,
    'knows_another_token': knows_another_token,
    'hangs_up': hangs_up,
}


def lied_to(index, port, lie):
    """Processes 1 and 2 connect to a liar first; process 0 starts when the liar has gone."""
    if index == ATTACKER:
        with socket.create_server(('127.0.0.1', port)) as server:
            for _ in range(4):
                connection, _ = server.accept()
                lie(connection)
                connection.close()
        Path('over').touch()
        return
    if index == 0:
        wait_for('over')
    join(index, 3, port, token=TOKEN)
    print(agreement.gather('here', index))
    agreement.peers.end()


# ------------------------------------------------------------------------------------------------
# Processes of the run that send invalid messages
# ------------------------------------------------------------------------------------------------


def sends(*messages, culprit=2):
    def attack(index, port):
        join(index, 3, port, token=TOKEN)
        if index == culprit:
            agreement.gather('begun', None)
            for line, one in itertools.product(agreement.peers._lines.values(), messages):
                line.send(one)
            time.sleep(60)
        with Preemption() as preemption:
            agreement.gather('begun', None)
            preemption.guard(True)
            agreement.on_all('next', lambda: index)
            agreement.gather('last', None)

    return attack


def writes(make, culprit=2):
    """Returns an attack: the culprit sends make(connection, its valid next message)."""

    def attack(index, port):
        join(index, 3, port, token=TOKEN)
        agreement.gather('begun', None)
        if index == culprit:
            line = agreement.peers._lines[0]
            text = b'{"kind": "end"}'
            right = line._proof(b'other', line._sent, text) + b' ' + text + b'\n'
            send(line._socket, make(line, right))
            time.sleep(60)
        agreement.gather('next', None)

    return attack


def proved(text):
    return lambda line, _: line._proof(b'other', line._sent, text) + b' ' + text + b'\n'


def ends_early(index, port):
    join(index, 3, port, token=TOKEN)
    if index != 2:
        agreement.gather('begun', None)
    agreement.peers.end()


def first_ends_early(index, port):
    join(index, 3, port, token=TOKEN)
    if index:
        agreement.gather('begun', None)
    agreement.peers.end()


def first_answers_too_few(index, port):
    """Process 0 answers the values of the others, which it waits for, with a list of one."""
    join(index, 3, port, token=TOKEN)
    agreement.gather('begun', None)
    if index == 0:
        peers = agreement.peers
        for sender in (1, 2):
            peers._value(sender, 'next')
        for line in peers._lines.values():
            line.send({'kind': 'value', 'name': 'next', 'value': [1]})
        time.sleep(60)
    agreement.gather('next', None)


def thread_fails(index, port):
    """The listening thread of process 1 raises an error."""
    join(index, 3, port, token=TOKEN)
    agreement.gather('begun', None)
    if index == 1:
        agreement.peers._lines[0].fileno = None  # asked for before it waits again
    agreement.gather('again', None)
    agreement.gather('never', None)


VALUE = {'kind': 'value', 'name': 'next', 'value': [None, None]}
INSIDERS = {
    'no_kind': sends({'text': 'a'}),
    'unknown_kind': sends({'kind': 'exec', 'text': 'a'}),
    'kind_is_a_list': sends({'kind': ['stop']}),
    'member_stops': sends({'kind': 'stop', 'text': '', 'code': 0}),
    'member_stops_with_1': sends({'kind': 'stop', 'text': '', 'code': 1}),
    'failed_with_0': sends({'kind': 'failed', 'text': 'well', 'code': 0}),
    'failed_with_true': sends({'kind': 'failed', 'text': 'well', 'code': True}),
    'failed_with_text': sends({'kind': 'failed', 'text': 'well', 'code': '2'}),
    'failed_with_256': sends({'kind': 'failed', 'text': 'well', 'code': 256}),
    'failed_without_text': sends({'kind': 'failed', 'text': None, 'code': 1}),
    'value_without_name': sends({'kind': 'value', 'value': 1}),
    'name_is_a_number': sends(VALUE | {'name': 1}),
    'fields_too_many': sends({'kind': 'end', 'code': 0}),
    'values_without_end': sends(*[VALUE] * 50),
    'answer_is_a_number': sends(VALUE | {'value': 3}),
    'answer_is_too_long': sends(VALUE | {'value': [None] * 3}),
    'problem_is_a_number': sends(VALUE | {'value': [0, None]}),
    'other_place': sends(VALUE | {'name': 'elsewhere'}),
    'signal_is_text': sends({'kind': 'signal', 'message': 'asked'}),
    'signal_of_nothing': sends({'kind': 'signal', 'message': {}}),
    'unknown_signal': sends({'kind': 'signal', 'message': {'what': 'exec'}}),
    'signal_of_the_first': sends({'kind': 'signal', 'message': {'what': 'stop', 'last': None}}),
    'calls_as_text': sends({'kind': 'signal', 'message': {'what': 'calls', 'calls': '1'}}),
    'calls_missing': sends({'kind': 'signal', 'message': {'what': 'calls'}}),
    'list': writes(proved(b'[]')),
    'no_json': writes(proved(b'{"kind": ')),
    'not_utf8': writes(proved(b'{"kind": "\xff\xfe"}')),
    'deep_json': writes(proved(b'[' * 10**6)),
    'deep_field': writes(proved(b'{"kind": ' + b'[' * 10**5 + b']' * 10**5 + b'}')),
    'no_proof': writes(lambda line, right: b'{"kind": "end"}\n'),
    'changed': writes(lambda line, right: right.replace(b'end', b'fnd')),
    'repeated': writes(lambda line, right: right * 2),
    'of_another_direction': writes(
        lambda line, right: line._proof(b'first', line._sent, b'{}') + b' {}\n'
    ),
    'empty_line': writes(lambda line, right: b'\n'),
    'a_line_without_end': writes(lambda line, right: b'x' * (2**24 + 2**17)),
    'ends_early': ends_early,
    'first_stops_with_0': sends({'kind': 'stop', 'text': '', 'code': 0}, culprit=0),
    'first_failed': sends({'kind': 'failed', 'text': '', 'code': 1}, culprit=0),
    'first_answers_too_few': first_answers_too_few,
    'first_ends_early': first_ends_early,
    'thread_fails': thread_fails,
}


def insider_at_the_door(index, port, text):
    """Process 2 has the token, but sends a wrong hello."""
    if index == 2:
        connection = call(port)
        send(connection, hello(nonce_of(connection), TOKEN.encode(), text=text))
        with contextlib.suppress(OSError):
            while connection.recv(1000):
                pass
        os._exit(2)
    join(index, 3, port, timeout=60 if index == 0 else 5, token=TOKEN)  # 0 may have ended before


DOOR = {
    'index_is_text': b'{"index": "2", "count": 3, "host": "a"}',
    'index_is_true': b'{"index": true, "count": 3, "host": "a"}',
    'index_is_large': b'{"index": 3, "count": 3, "host": "a"}',
    'index_is_0': b'{"index": 0, "count": 3, "host": "a"}',
    'index_is_taken': b'{"index": 1, "count": 3, "host": "a"}',
    'count_is_other': b'{"index": 2, "count": 4, "host": "a"}',
    'no_host': b'{"index": 2, "count": 3}',
    'more': b'{"index": 2, "count": 3, "host": "a", "kind": "stop"}',
    'list': b'[2, 3]',
    'deep': b'[' * 400,
    'huge_number': b'{"index": 1' + b'0' * 300 + b', "count": 3, "host": "a"}',
}


def other_tokens(index, port):
    """Process 1 has another token, and so never joins."""
    join(index, 2, port, timeout=4, token='one token' if index else 'another token')


def without_token(index, port):
    join(index, 3, port, token='')
    print(agreement.gather('here', index))
    agreement.peers.end()


def token_of_a_killed_run(index, port):
    """The token file of a killed run still exists when the first process of the next run starts."""
    if index == 0:
        wait_for('left')
    if index == 1:
        run_token.create(port)
        Path('left').touch()
    join(index, 3, port)
    print(agreement.gather('here', index), run_token.path(port).exists())
    agreement.peers.end()


def scenes():
    """Returns name -> (scene, processes)."""
    kinds = {
        'stranger': (attacked, 'attack', STRANGERS, 4),
        'liar': (lied_to, 'lie', LIARS, 4),
        'door': (insider_at_the_door, 'text', DOOR, 3),
    }
    found = {
        f'{kind} {name}': (functools.partial(scene, **{field: one}), count)
        for kind, (scene, field, ones, count) in kinds.items()
        for name, one in ones.items()
    }
    found |= {f'insider {name}': (scene, 3) for name, scene in INSIDERS.items()}
    return found | {
        'afterwards': (afterwards, 4),
        'few_files': (few_files, 4),
        'other_tokens': (other_tokens, 2),
        'without_token': (without_token, 3),
        'token_of_a_killed_run': (token_of_a_killed_run, 3),
    }


if __name__ == '__main__':
    rendezvous._STRANGE, rendezvous._REMIND = 1.0, 1000.0
    play(scenes())
