"""Programs of earlier processes: the same numbers, nothing traced, and never another program."""

import dataclasses
import gc
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from compiling import FAST

from cls.programs import abstract_batch
from cls.run import executables
from cls.setup import abstract_state
from cls.steps import sharding as meshes
from cls.steps.train_step import make_train_step


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of kept programs, of a process that begins after its sources were written."""
    monkeypatch.setattr(executables, '_began', lambda: time.time() + 10)
    monkeypatch.setattr(executables, '_enabled', True)
    executables._sources.cache_clear()
    old = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'xla'))
    yield tmp_path / 'xla' / 'programs'
    jax.config.update('jax_compilation_cache_dir', old)
    executables._sources.cache_clear()


def _scaled(factor, traces):
    def function(x):
        traces.append(None)
        return x * factor + 1

    return function


SHAPES = (jax.ShapeDtypeStruct((3,), 'float32'),)


def test_a_program_is_found_without_tracing_and_gives_the_same_numbers(cache):
    factor, x = np.array([2.0, 3.0, 0.1], np.float32), jnp.arange(3.0)
    first, second = [], []
    made = executables.compiled(_scaled(factor, first), SHAPES)
    found = executables.compiled(_scaled(factor, second), SHAPES)
    assert len(first) == 1 and not second
    np.testing.assert_array_equal(made(x), found(x))
    np.testing.assert_allclose(found(x), np.arange(3) * factor + 1, rtol=1e-6)
    assert len(list(cache.iterdir())) == 1


def test_what_a_function_closes_over_makes_another_program(cache):
    x = jnp.arange(3.0)
    for factor in (np.float32(2), np.float32(2.5), np.full(3, 2.5, np.float32), jnp.full(3, 4.0)):
        found = executables.compiled(_scaled(factor, []), SHAPES)
        np.testing.assert_allclose(found(x), np.arange(3) * np.asarray(factor) + 1)
    large = np.zeros(5000, np.float32)  # NumPy prints its ends
    other = large.copy()
    other[2500] = 1
    for values in (large, other):
        program = executables.compiled(lambda x, values=values: x + values.sum(), SHAPES)
        assert program(x)[0] == values.sum()
    assert len(list(cache.iterdir())) == 6


def test_shapes_options_and_settings_make_another_program(cache):
    function = _scaled(2.0, [])
    executables.compiled(function, SHAPES)
    executables.compiled(function, (jax.ShapeDtypeStruct((4,), 'float32'),))
    executables.compiled(function, SHAPES, FAST)
    executables.compiled(function, SHAPES, donate_argnums=0)
    with jax.default_matmul_precision('float32'):
        executables.compiled(function, SHAPES)
    assert len(list(cache.iterdir())) == 5


def test_a_module_outside_the_environment_belongs_to_the_program(cache, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file, values = tmp_path / 'mine_7.py', []
    for factor in (2, 5):
        file.write_text(f'def mine(x):\n    return {factor} * x\n')
        os.utime(file, (factor, factor))  # else Python may take the compiled module before
        sys.modules.pop('mine_7', None)
        import mine_7

        values.append(float(executables.compiled(mine_7.mine, SHAPES)(jnp.ones(3))[0]))
    sys.modules.pop('mine_7')
    assert values == [2, 5]


def test_a_config_file_belongs_to_the_program(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(executables, '_files', {str(tmp_path / 'mine.py')})
    for text in ('a = 1', 'a = 2'):
        (tmp_path / 'mine.py').write_text(text)
        executables.compiled(_scaled(2.0, []), SHAPES)
    assert len(list(cache.iterdir())) == 2


def test_a_source_younger_than_the_process_keeps_no_program(cache, monkeypatch):
    monkeypatch.setattr(executables, '_began', lambda: 0.0)
    executables.compiled(_scaled(2.0, []), SHAPES)
    assert not cache.exists()


def test_this_process_began_before_now():
    assert 0 <= time.time() - executables._began() < 24 * 3600


@pytest.mark.parametrize(
    'damage', [lambda x: x[:-9], lambda x: x[:50] + b'?' + x[51:], lambda _: b'']
)
def test_a_damaged_file_is_made_again(cache, damage):
    executables.compiled(_scaled(2.0, []), SHAPES)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    traces = []
    program = executables.compiled(_scaled(2.0, traces), SHAPES)
    assert len(traces) == 1
    assert program(jnp.ones(3))[0] == 3
    assert file.stat().st_size > 1000


def test_a_program_from_the_cache_of_jax_is_not_kept(cache, monkeypatch):
    """It could be loaded, and would fail when it is called."""
    monkeypatch.setattr(executables, '_hits', hits := [])

    def found(x):
        hits.append(None)  # as JAX's event
        return x

    executables.compiled(found, SHAPES)
    assert not cache.exists()


def test_a_folder_that_cannot_be_written_keeps_no_program(cache):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text('')
    assert executables.compiled(_scaled(2.0, []), SHAPES)(jnp.ones(3))[0] == 3


def test_the_programs_that_were_longest_not_used_are_removed(cache, monkeypatch):
    files = []
    for factor in (1.0, 2.0, 3.0):
        executables.compiled(_scaled(factor, []), SHAPES)
        files += set(cache.iterdir()).difference(files)
        os.utime(files[-1], (1000 + factor, 1000 + factor))
    executables.compiled(_scaled(1.0, traces := []), SHAPES)  # used again, now the newest
    assert not traces
    size = max(file.stat().st_size for file in files)
    monkeypatch.setattr(executables, '_MOST', 3 * size)
    executables.compiled(_scaled(4.0, []), SHAPES)
    left = set(cache.iterdir())
    assert len(left) == 3
    assert files[1] not in left


CHANGES = {
    'optim.lr': '0.3',
    'duration': '9 steps',
    'ema': '0.5',
    'loss.label_smoothing': '0.2',
    'loss.class_weights': 'balanced',
    'optim.clip_norm': '3.0',
    'accumulate': '2',
    'seed': '5',
    'log_every': '2 steps',
}


def test_configs_with_other_programs_have_other_names(cache):
    """The lowered text is the second path: where it differs, so must the name."""
    texts = {}
    for changes in [(), *({name: value}.items() for name, value in CHANGES.items())]:
        setup = tiny.setup(*changes)
        state, optimizer = setup.new_state_shapes()
        where = abstract_state(state, setup.mesh)
        step = make_train_step(
            setup.model, optimizer, setup.recipe, meshes.batch_sharding(setup.mesh)
        )
        arguments = where, abstract_batch(setup, 8)
        name = executables._key((step, arguments, None, {}))
        assert name is not None
        texts.setdefault(name, set()).add(jax.jit(step).lower(*arguments).as_text())
    assert all(len(same) == 1 for same in texts.values())
    assert len(texts) == 1 + len(CHANGES) - 2  # seeds and logs change no program


def test_a_model_of_other_fields_has_another_name(cache):
    setup = tiny.setup()
    models = [setup.model, dataclasses.replace(setup.model, num_classes=11)]
    names = {executables._key((model.apply, SHAPES, None, {})) for model in models}
    assert len(names) == 2 and None not in names


def test_a_class_without_a_module_has_no_name(cache):
    """As those of a config file: cloudpickle gives them a random number in each process."""
    made = type('Made', (), {'__module__': 'config_mine', 'factor': 2})
    program = executables.compiled(lambda x: x * made.factor, SHAPES)
    assert program(jnp.ones(3))[0] == 2
    assert not cache.exists()


@pytest.mark.parametrize('collecting', [True, False])
def test_no_garbage_is_looked_for_while_a_program_is_traced(collecting):
    seen = []

    def function(x):
        seen.append(gc.isenabled())
        if len(seen) > 1:
            raise ValueError
        return x

    gc.enable() if collecting else gc.disable()
    try:
        argument = jax.ShapeDtypeStruct((2,), jnp.float32)
        executables.compiled(function, (argument,), keep=False)
        assert gc.isenabled() == collecting
        with pytest.raises(ValueError):
            executables.compiled(function, (jnp.zeros(3),), keep=False)
        assert gc.isenabled() == collecting
    finally:
        gc.enable()
    assert seen == [False, False]
