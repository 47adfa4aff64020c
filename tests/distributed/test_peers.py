"""Real processes that connect, agree, fail and stop together: the scenes of tests/linked.py."""

import json
from pathlib import Path

import pytest
from scenes import codes, play

HERE = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def played():
    """The results of all scenes: scene -> [exit code, stdout, stderr] of each process."""
    return play('linked.py')


def said(scene):
    """Returns all printed lines, those of process 0 first."""
    return [line for _, *texts in scene for text in texts for line in text.splitlines()]


def test_they_agree(played):
    scene = played['together']
    assert codes(scene) == [0, 0, 0]
    assert said(scene)[0] == 'said by 0'
    values = [json.loads(line) for line in said(scene)[1:]]
    assert values == [[[0, 2, 4], {'from': 0}, index] for index in range(3)]


def test_a_missing_process_is_named_on_all_after_the_timeout(played):
    assert codes(played['missing']) == [2, 2]
    for line in said(played['missing']):
        assert 'processes 2, 3 of 4 (by flags) did not come within 6 s' in line
    assert len(said(played['missing'])) == 2


def test_a_coordinator_that_is_not_there(played):
    assert codes(played['unreachable']) == [2]
    (line,) = said(played['unreachable'])
    assert 'process 1 of 4 (by flags) could not reach process 0 at 127.0.0.1:' in line
    assert 'in 2 s ([Errno 111] Connection refused)' in line


def test_processes_with_different_settings(played):
    assert codes(played['another_count']) == [2, 2]
    for line in said(played['another_count']):
        assert 'expects 3 processes, process 0 expects 2' in line
    assert set(codes(played['twice'])) == {2}
    for line in said(played['twice']):
        assert 'two processes have the index 1' in line


def test_a_port_that_is_in_use(played):
    assert codes(played['port_in_use']) == [2]
    (line,) = said(played['port_in_use'])
    assert 'cannot listen at port' in line


def test_wrong_callers_and_processes_that_die_waiting_do_not_count(played):
    assert played['strangers'] == 3 * [[0, '[0, 1, 2]\n', '']]


@pytest.mark.parametrize('scene, victim', [('killed', 2), ('first_killed', 0)])
def test_one_killed_the_others_say_so_and_stop(scene, victim, played):
    assert codes(played[scene]) == [-9 if index == victim else 1 for index in range(3)]
    for index, (_, out, error) in enumerate(played[scene]):
        (line,) = error.splitlines() if index != victim else ['']
        assert not out
        assert index == victim or f'process {victim} of 3 disappeared' in line


@pytest.mark.parametrize(
    'scene, line',
    [
        ('mistake', 'error: process 1: no data here.'),
        ('same_mistake', 'error: config.lr is wrong.'),
        ('mistake_meanwhile', 'error: process 2: an image cannot be read.'),
    ],
)
def test_a_mistake_is_reported_once_and_ends_all(scene, line, played):
    assert codes(played[scene]) == [2, 2, 2]
    assert said(played[scene]) == [line]
    assert played[scene][0][2].strip() == line


def test_a_stop_that_comes_with_the_start_is_heard(played):
    assert codes(played['stopped_at_once']) == [0, 2]
    assert said(played['stopped_at_once']) == ['error: config.lr is wrong.']


def test_a_fault_in_one_ends_all(played):
    scene = played['crash']
    assert codes(scene) == [1, 1, 1]
    assert scene[0][2] == 'error: process 1: ValueError: a fault in the program\n'
    assert 'Traceback' in scene[1][2]
    assert not scene[2][2]


@pytest.mark.parametrize(
    'scene', ['preempted', 'first_preempted', 'all_preempted', 'preempted_while_evaluating']
)
def test_sigterm_on_any_stops_all_at_the_same_step(scene, played):
    assert codes(played[scene]) == [0, 0, 0]
    (line,) = set(said(played[scene]))
    assert line.startswith('saved ') and line.endswith(', True')


@pytest.mark.parametrize('scene', ['preempted_while_compiling', 'first_preempted_while_compiling'])
def test_sigterm_while_one_compiles_ends_all_at_once(scene, played):
    assert codes(played[scene]) == [0, 0, 0]
    assert said(played[scene]) == ['stopped by SIGTERM; nothing to save yet.']


@pytest.mark.parametrize(('scene', 'code'), [('interrupted', 130), ('hung_up', 129)])
def test_the_exit_code_tells_the_signal_on_all(scene, code, played):
    assert codes(played[scene]) == [code] * 3
    lines = [line for line in said(played[scene]) if not line.startswith('interrupted: saving')]
    (line,) = set(lines)
    assert line.startswith('saved ') and line.endswith(', True')


def test_ctrl_c_before_one_listens_ends_all(played):
    scene = played['interrupted_before_it_listens']
    assert codes(scene) == [130] * 3
    assert said(scene) == ['stopped by SIGINT; nothing to save yet.']


@pytest.mark.parametrize('scene', ['interrupted_evaluation', 'interrupted_twice'])
def test_ctrl_c_to_one_ends_all_at_once(scene, played):
    assert codes(played[scene]) == [130] * 3
    assert said(played[scene])[-1].endswith('interrupted')
