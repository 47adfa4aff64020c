"""The weights that are taken from a file with several sets, and checkpoints in several files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cls import weights
from cls.errors import UserError
from cls.weights import hub

FIXTURES = Path(__file__).parent / 'fixtures'


def values(path, **options):
    """Returns the one value of all tensors a and b of a file of make_fixtures.py."""
    tensors = weights.read(path, **options)
    assert {'a', 'b'} <= set(tensors) <= {'a', 'b', 'n_averaged'}
    assert (tensors['a'].shape, tensors['b'].shape) == ((2,), (1, 2))
    (value,) = {float(x) for name in 'ab' for x in tensors[name].ravel()}
    return value


@pytest.mark.parametrize(
    ('name', 'plain', 'average'),
    [
        ('average_timm.pth.tar', 'state_dict', 'state_dict_ema'),
        ('average_torchvision.pth', 'model', 'model_ema'),
        ('average.ckpt', 'state_dict', 'ema_model.'),
        ('average_lightning.ckpt', 'current_model_state', 'state_dict'),
    ],
)
def test_the_plain_weights_unless_the_average_is_asked_for(name, plain, average):
    path = FIXTURES / name
    assert values(path) == 1
    assert values(path, ema=True) == 2
    found = weights.open_checkpoint(path)
    assert found.entry == plain
    assert found.averages == (average,)
    assert average in found.unused


def test_an_average_alone_is_taken_and_named():
    found = weights.open_checkpoint(FIXTURES / 'average_only.pth')
    assert found.entry == 'ema.module'
    assert values(FIXTURES / 'average_only.pth') == 2


def test_an_average_that_is_not_there_is_refused():
    for name in ('model.pt', 'zip.pt'):
        with pytest.raises(UserError, match=r'has no average of the weights: .*leave out --ema'):
            weights.read(FIXTURES / name, ema=True)
    with pytest.raises(UserError, match='both --entry and --ema'):
        weights.read(FIXTURES / 'model.pt', entry='model', ema=True)


def test_hyper_parameters_of_a_class_of_their_own_are_hints_only():
    found = weights.open_checkpoint(FIXTURES / 'average.ckpt')
    assert found.card == {'architecture': 'resnet50'}


@pytest.mark.parametrize('name', ['gpu.pt', 'gpu.pth'])
def test_tensors_of_a_gpu_under_two_wrappers(name):
    assert b'cuda:0' in (FIXTURES / name).read_bytes()
    tensors = weights.read(FIXTURES / name)
    assert list(tensors) == ['a']
    assert tensors['a'].dtype == np.float16
    np.testing.assert_array_equal(tensors['a'], [0, 1, 2])


PARTS = [
    ('parts_safetensors', 'model.safetensors.index.json'),
    ('parts_bin', 'pytorch_model.bin.index.json'),
]


@pytest.mark.parametrize(('folder', 'index'), PARTS)
def test_the_parts_of_a_checkpoint(folder, index):
    assert hub.locate(str(FIXTURES / folder)).file.name == index
    tensors = weights.read(FIXTURES / folder / index)
    assert sorted(tensors) == list('abcd')
    for i, name in enumerate('abcd'):
        np.testing.assert_array_equal(tensors[name], np.full(64, i, 'f'))


@pytest.mark.parametrize(('folder', 'index'), PARTS)
def test_parts_are_complete_and_as_the_index_says(tmp_path, folder, index):
    here = tmp_path / 'here'
    shutil.copytree(FIXTURES / folder, here)
    part = sorted(here.glob('*-00001-of-*'))[0]

    def refused(path, reason):
        with pytest.raises(UserError, match=reason) as error:
            weights.read(path)
        assert '\n' not in str(error.value)

    refused(part, f'one of 2 files of a checkpoint; give its index, .*{re.escape(index)}')
    content = json.loads((here / index).read_text())
    for weight_map, reason in (
        ({}, 'expected the index of a checkpoint'),
        ({'a': 3}, 'expected the index of a checkpoint'),
        ({'a': '../other.bin'}, 'expected files in its own folder'),
        ({'a': index}, 'expected files in its own folder'),
        ({**content['weight_map'], 'e': part.name}, 'other tensors than the index states, as e'),
        ({'a': part.name}, 'other tensors than the index states, as b'),
    ):
        (here / index).write_text(json.dumps({'weight_map': weight_map}))
        refused(here / index, reason)
    for text in ('', '[]', '{"weight_map": [1]}', '{"weight_map": {'):
        (here / index).write_text(text)
        refused(here / index, 'expected the index of a checkpoint')
    (here / index).write_text(json.dumps(content))
    part.write_bytes(part.read_bytes()[:-40])
    refused(here / index, 'damaged')
    part.unlink()
    refused(here / index, 'is missing; fetch all 2')


def test_prefixes_of_wrappers(tmp_path):
    for prefix in ('module.', '_orig_mod.', 'model.', 'backbone.', 'net.', 'model._orig_mod.'):
        save_file({f'{prefix}a': np.ones(2, 'f'), f'{prefix}b': np.ones(2, 'f')}, tmp_path / 'x')
        assert sorted(weights.read(tmp_path / 'x')) == ['a', 'b'], prefix
    save_file({'model.a': np.ones(2, 'f'), 'head.b': np.ones(2, 'f')}, tmp_path / 'x')
    assert sorted(weights.read(tmp_path / 'x')) == ['head.b', 'model.a']
