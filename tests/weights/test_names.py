"""State dicts with prefixes in their names, or with more entries than the network."""

import numpy as np
import pytest

from cls.errors import UserError
from cls.weights.names import own

WANTED = {f'layer{i}.{part}' for i in range(4) for part in ('weight', 'bias')}
NET = {name: np.full(2, i, np.float32) for i, name in enumerate(sorted(WANTED))}


def renamed(name):
    return name.replace('stage', 'layer')


def taken(extra, prefix=''):
    found, left = own({f'{prefix}{k}': v for k, v in NET.items()} | extra, WANTED, renamed)
    for name, value in NET.items():
        np.testing.assert_array_equal(found[name], value)
    return sorted(found.keys() - WANTED), left


ONE = np.ones(1)


@pytest.mark.parametrize(
    ('extra', 'prefix', 'more', 'left'),
    [
        ({}, '', [], []),
        ({}, 'module.', [], []),
        ({'n_averaged': np.array(3)}, 'module.', [], ['n_averaged']),
        ({'n_averaged': np.array(3)}, '', [], ['n_averaged']),
        ({'criterion.weight': ONE}, 'model.', [], ['criterion.weight']),
        ({'head.fc.weight': ONE}, 'backbone.', [], ['head.fc.weight']),
        ({'module.normalize.mean': ONE}, 'module.model._orig_mod.', [], ['module.normalize.mean']),
        (
            {'total_ops': ONE, 'layer1.total_params': ONE},
            '',
            [],
            ['total_ops', 'layer1.total_params'],
        ),
        ({'module.total_ops': ONE}, 'module.', [], ['module.total_ops']),
        ({}, '_orig_mod.module.', [], []),
        ({}, 'net._fsdp_wrapped_module.', [], []),
        ({'layer9.weight': ONE}, '', ['layer9.weight'], []),  # the caller refuses it
        ({'module.layer9.weight': ONE}, 'module.', ['layer9.weight'], []),
    ],
)
def test_prefixes_and_extras(extra, prefix, more, left):
    assert taken(extra, prefix) == (more, left)


def test_a_tensor_without_the_prefix_fills_a_missing_variable():
    state = {f'backbone.{name}': value for name, value in NET.items() if 'layer3' not in name}
    state |= {name: value for name, value in NET.items() if 'layer3' in name}
    found, left = own(state, WANTED, renamed)
    assert found.keys() == WANTED and not left


def test_wrappers_between_modules():
    state = {k.replace('.', '._checkpoint_wrapped_module.'): v for k, v in NET.items()}
    found, left = own({f'module.{k}': v for k, v in state.items()}, WANTED, renamed)
    assert found.keys() == WANTED and not left
    with pytest.raises(UserError, match='with and without'):
        own({**NET, 'layer1._orig_mod.bias': ONE}, WANTED, renamed)


def test_older_names_below_a_prefix():
    state = {f'module.{name.replace("layer", "stage")}': value for name, value in NET.items()}
    found, _ = own(state, WANTED, renamed)
    assert found.keys() == WANTED
    with pytest.raises(UserError, match='old and a new name'):
        own({**NET, 'stage1.bias': ONE}, WANTED, renamed)


def test_the_network_twice():
    """Two different networks are refused; two equal ones count as one."""
    student = {f'student.{name}': value for name, value in NET.items()}
    teacher = {f'teacher.{name}': value + 1 for name, value in NET.items()}
    with pytest.raises(UserError, match="twice, under 'student.' and 'teacher.'"):
        own(student | teacher, WANTED, renamed)
    same = {f'teacher.{name}': value for name, value in NET.items()}
    found, left = own(student | same, WANTED, renamed)
    assert found.keys() == WANTED and len(left) == len(WANTED)


def test_names_without_end_take_no_time():
    """All prefixes of a name of a million modules would take terabytes."""
    assert taken({'a.' * 500_000 + 'weight': ONE}, 'module.')[1] == ['a.' * 500_000 + 'weight']
