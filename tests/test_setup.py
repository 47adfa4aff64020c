"""From a config to a setup: specifications, all mistakes at once, and no repeated work."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny

from cls import evaluate, setup, train
from cls.config import durations
from cls.config import load as configs
from cls.data.spec import DataSpec
from cls.errors import Mistakes, UserError, refuse
from cls.evaluation.protocols import EvalSpec
from cls.main import main
from cls.models.registry import tracing
from cls.recipes import common
from cls.setup import set_up
from cls.steps import sharding
from cls.steps.optim import OptimSpec

REPEATED = (('batch', '64'), ('accumulate', '16'), ('data.repeats', '8'))
MISTAKES = {
    'data.interpolation': 'bicubik',
    'data.train_crop': 'padd',
    'optim.name': 'adma',
    'optim.decay_mask': 'kernel',
    'schedule.name': 'cosin',
    'eval.protocol': 'tencrop',
    'remat': 'stages',
    'profile': '20:10',
    'mesh.fsdp': '3',
    'model.widths': '(-1, 1, 1)',
}
LATE_MISTAKES = {
    'progressive': "(('5 steps', 8),)",
    'log_every': '0 steps',
    'augment.policy': 'randaugmnt',
    'data.mean': '(1, 2, 3)',
    'freeze_bn': '0 steps',
    'optim.freeze': 'no_such_layer',
}


def refusal(overrides, spec='configs/resnet.py', **options):
    """Returns the message of the UserError for a config."""
    with pytest.raises(UserError) as caught:
        set_up(configs.load(spec, overrides), jax.devices()[:1], **options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize('spec', [DataSpec, OptimSpec, EvalSpec])
def test_the_defaults_of_a_specification_are_those_of_the_table(spec):
    assert spec.from_config(common.base()) == spec()


# ------------------------------------------------------------------------------------------------
# Mistakes
# ------------------------------------------------------------------------------------------------


def test_all_mistakes_of_a_config_are_reported_together(tmp_path):
    config = configs.load('configs/resnet.py', tuple(MISTAKES.items()))
    with pytest.raises(UserError) as caught:
        train.job(config, tmp_path / 'run')
    assert [name for name in MISTAKES if f'config.{name} ' not in str(caught.value)] == []
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()


def test_mistakes_in_single_values_are_reported_with_the_others(tmp_path, monkeypatch):
    """The table of fields refuses the first four, before set-up; specifications the others."""
    monkeypatch.chdir(tmp_path)
    wrong = {'batch': '0', 'ema': '2', 'data.pad': '-1', 'checkpoint.keep': '0'}
    wrong |= {'optim.name': 'adma', 'schedule.name': 'cosin', 'eval.protocol': 'crop'}
    fields = [f'--config.{name}={value}' for name, value in wrong.items()]
    with pytest.raises(UserError) as caught:
        main(['--config=resnet', *fields])
    assert [name for name in wrong if f'config.{name} is' not in str(caught.value)] == []
    assert not list(tmp_path.iterdir())
    config = common.base()
    for name, value in (('batch', 0), ('seed', -1)):
        config[name] = value
    config.optim.name = 'adma'
    with pytest.raises(UserError, match='config.seed.* config.batch.* config.optim.name'):
        set_up(config)


def test_mistaken_overrides_are_reported_with_the_other_mistakes(tmp_path, monkeypatch):
    """What depends on the value of a mistaken one, here the repeats, is not checked."""
    monkeypatch.chdir(tmp_path)
    wrong = {
        'optim.body_lr': '1',
        'dat.pad': '1',
        'batch': 'x',
        'ema': '2',
        'schedule.name': 'cosin',
    }
    fields = [f'--config.{name}={value}' for name, value in wrong.items()]
    with pytest.raises(UserError) as caught:
        main(['--config=resnet', *fields, '--config.data.repeats=7'])
    line = str(caught.value)
    assert "no field 'optim.body_lr'. It is now called optim.body_lr_mult." in line
    assert "no field 'dat.pad'. Did you mean data.pad" in line
    assert "config.batch is an int (now 64); 'x' is not." in line
    assert 'config.ema is 2.0' in line
    assert "config.schedule.name is 'cosin'" in line
    assert 'repeats' not in line
    assert not list(tmp_path.iterdir())


def test_mistakes_that_need_the_data_are_reported_together():
    line = refusal(tuple(LATE_MISTAKES.items()), spec='configs/vgg.py')
    for name in LATE_MISTAKES:
        assert f'config.{name} ' in line, name


def test_a_single_mistake_is_the_error_itself():
    def fails():
        raise UserError('one is wrong.') from ValueError('why')

    mistakes = Mistakes()
    assert mistakes.attempt(int, '3') == 3
    assert mistakes.attempt(fails) is mistakes.attempt(fails) is None
    with pytest.raises(UserError, match=r'^one is wrong\.$') as caught:
        mistakes.refuse()
    assert str(caught.value.__cause__) == 'why'
    refuse([])
    with pytest.raises(UserError, match=r'^a\. b\?$'):
        refuse(['a', 'b?', 'a'])
    with pytest.raises(UserError, match=r'^0\. .* 7\. And 2 more\.$'):
        refuse(map(str, range(10)))


@pytest.mark.parametrize('frozen', [('freeze_bn', '0 steps'), ('optim.freeze', 'conv1')])
def test_repeats_are_of_the_whole_batch_whatever_is_frozen(frozen):
    """The 64 examples of a step have eight copies of an image; it computes 4 examples at once."""
    made = set_up(configs.load('configs/resnet.py', (*REPEATED, frozen)), jax.devices()[:1])
    assert made.microbatch == 4


def test_precise_statistics_need_whole_repeats_in_their_own_batches():
    precise = ('eval.precise_bn', '100')
    line = refusal((*REPEATED, precise))
    assert 'data.repeats is 8: expected a divisor of the 4 examples' in line
    assert 'config.eval.precise_bn computes together' in line
    assert 'config.batch.' not in line
    line = refusal((('batch', '12'), ('data.repeats', '8')))
    assert 'expected a divisor of the 12 examples of config.batch.' in line


class WithFlaxNorm(nn.Module):
    """A network with a norm of Flax and a head."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        """Returns logits (N, num_classes)."""
        x = nn.BatchNorm(use_running_average=not train, name='norm')(images.mean((1, 2)))
        return nn.Dense(self.num_classes, name='head')(x)


@pytest.mark.parametrize(('pattern', 'refused'), [('head/bias', False), ('^norm', True)])
def test_flax_norms_are_refused_where_they_would_be_frozen(pattern, refused, monkeypatch):
    monkeypatch.setattr(configs, 'create_model', lambda *_: WithFlaxNorm())
    overrides = (('optim.freeze', pattern),)
    if refused:
        assert 'norms of Flax (norm), whose statistics config.optim.freeze' in refusal(overrides)
    else:
        set_up(configs.load('configs/resnet.py', overrides), jax.devices()[:1])


def test_an_evaluation_needs_no_batch_that_its_devices_divide():
    """Evaluations pad their own batches; only precise statistics use those of training."""
    config = configs.load('configs/resnet.py', (('batch', '100'),))
    assert set_up(config, jax.devices()[:8], classes=()).eval_batch() == 104
    with pytest.raises(UserError, match='batch is 100: expected a multiple of 8'):
        set_up(config, jax.devices()[:8])
    config = configs.load('configs/resnet.py', (('batch', '100'), ('eval.precise_bn', '50')))
    with pytest.raises(UserError, match='batch is 100: expected a multiple of 8'):
        set_up(config, jax.devices()[:8], classes=())


# ------------------------------------------------------------------------------------------------
# Work without repetition
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def draws(monkeypatch):
    """A list that grows by one each time that the variables of a network are initialized."""
    calls, draw = [], setup.init

    def counted(*arguments):
        calls.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(setup, 'init', counted)
    return calls


def test_only_the_start_of_a_run_draws_weights(tmp_path, draws, monkeypatch):
    """Resuming and evaluation need only the shapes."""
    run = tmp_path / 'run'
    run.mkdir()
    assert train.fit(tiny.setup(('duration', '2 steps')), run)['step'] == 2
    assert len(draws) == 1
    assert train.fit(tiny.setup(('duration', '4 steps')), run)['step'] == 4
    made = tiny.setup(('duration', '4 steps'))
    monkeypatch.setattr(evaluate, 'set_up', lambda *_, **__: made)
    restored = evaluate.restore(configs.load('configs/resnet.py'), run)[1]
    assert int(restored.step) == 4
    assert len(draws) == 1


def test_durations_are_parsed_before_the_first_step(tmp_path, monkeypatch):
    made = tiny.setup(('duration', '6 steps'), ('eval.every', '2 steps'))
    parsed, read = [], durations.read
    monkeypatch.setattr(durations, 'read', lambda text: parsed.append(text) or read(text))
    made.steps('1 epochs')
    assert parsed == ['1 epochs']  # the counter works
    parsed.clear()
    train.fit(made, tmp_path)
    assert parsed == []


@pytest.mark.parametrize('ema', [False, True])
def test_a_new_state_has_the_weights_themselves_and_one_element_for_each_constant(ema):
    made = tiny.setup(('optim.name', 'rmsprop'), ('ema', '0.9' if ema else '0.0'))
    variables = made.initial()
    new, _ = made.new_state(variables)
    leaves = {id(leaf) for leaf in jax.tree.leaves(variables)}
    kept = {'params': new.params, 'batch_stats': new.batch_stats}
    assert {id(leaf) for leaf in jax.tree.leaves(kept)} == leaves
    assert {id(leaf) for leaf in jax.tree.leaves(new.ema)} == (leaves if ema else set())
    assert all(not any(leaf.strides) for leaf in jax.tree.leaves(new.opt_state))


def test_the_leaves_of_a_state_on_devices_share_no_memory():
    """The step donates them, and can reuse only memory of their own."""
    made = tiny.setup(('ema', '0.9'), ('optim.name', 'rmsprop'))
    new, _ = made.new_state()
    on_devices = sharding.put(new, sharding.state_shardings(new, made.mesh))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(on_devices)]
    assert len(pointers) == len(set(pointers)) == len(jax.tree.leaves(new))


@pytest.fixture
def compiled():
    """The compilations during a test, one entry each."""
    times = []

    def note(event, seconds, **_):
        if event == '/jax/core/compile/backend_compile_duration':
            times.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield times
    jax.monitoring.unregister_event_duration_listener(note)


def test_the_start_of_a_run_compiles_nothing_but_the_key(compiled):
    """Neither for the parameters nor for the optimizer, with their many shapes."""
    made = tiny.setup(('optim.name', 'adam'), ('ema', '0.9'))
    jax.random.key_data(jax.random.key(0))
    compiled.clear()
    new, _ = made.new_state()
    assert len({leaf.shape for leaf in jax.tree.leaves(new)}) > 5
    assert compiled == []
    jax.jit(lambda x: x + len(compiled))(np.float32(0.1))
    assert len(compiled) == 1  # the counter works


def test_a_network_is_traced_once_for_its_shapes_and_values(monkeypatch):
    config = configs.load('configs/resnet.py', (*tiny.FIELDS, ('model.stage_sizes', '(1, 1, 2)')))
    traces, trace = [], tracing._trace
    counted = functools.lru_cache(lambda *key: traces.append(key) or trace(*key))
    monkeypatch.setattr(tracing, '_kept', counted)
    made = set_up(config, jax.devices()[:1])
    made.new_state_shapes()
    made.new_state()
    dataclasses.replace(made, seed=1).initial()
    assert len(traces) == 1


def test_the_learning_rate_is_built_once():
    made = tiny.setup()
    assert made.learning_rate is made.learning_rate
    other = dataclasses.replace(made, schedule=dataclasses.replace(made.schedule, lr=9.0))
    assert other.learning_rate is not made.learning_rate
