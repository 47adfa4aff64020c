"""Trained trials: the numbers of the trainer, and networks that fail."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cls import train
from cls.config import load as configs
from cls.data import datasets
from cls.errors import UserError
from cls.models import genet
from cls.models.registry import genotypes
from cls.models.registry.complexity import complexity
from cls.recipes import genet as system
from cls.recipes.search import common
from cls.search import loop
from cls.search.evaluators import train as evaluator
from cls.search.evaluators.train import Training
from cls.search.searcher import Trial
from cls.search.space import Fixed


@dataclasses.dataclass(frozen=True)
class Bits(Fixed):
    """A space of two nodes, connected or not."""

    counts = (2,)

    def genotype(self, code):
        return genet.Genotype((f'{code[0]}',))

    def code(self, genotype):
        return (int(genotype.stages[0]),)


class Broken(Bits):
    """A space whose genotypes no network accepts."""

    def genotype(self, code):
        return {'stages': ['2']}


def config(**changes):
    """The config of a search of Bits with short trainings."""
    c = common.base()
    common.use_digits_proxy(c, system)
    c.seed = 3
    c.proxy.model.widths, c.proxy.model.bins, c.proxy.model.hidden = (4,), 1, ()
    c.proxy.duration, c.proxy.batch = '12 steps', 32
    c.proxy.schedule.warmup, c.proxy.schedule.name = '0 steps', 'constant'
    c.proxy.log_every = c.proxy.checkpoint.every = '12 steps'
    c.proxy.update_from_flattened_dict(changes)
    return c


@pytest.fixture
def quick():
    return Training.from_config(Bits(), config(), quick=True)


def test_a_trial_is_a_run_of_the_trainer(tmp_path):
    trial = Trial(7, (1,))
    found = Training.from_config(Bits(), config(), quick=False)(trial)
    proxy = config().proxy
    proxy.model.genotype = genotypes.plain(Bits().genotype(trial.code))
    proxy.seed = evaluator.seed(3, trial)
    result = train.job(configs.from_json(configs.to_json(proxy)), tmp_path / 'run')
    assert found['accuracy'] == pytest.approx(result['validation/top1'] / 100, abs=1e-12)
    assert found['params'] == result['params']
    assert found['seeds'] == [proxy.seed]
    model = configs.create_model(proxy, 10)
    assert found['macs'] == complexity(model, 8, 1).macs
    assert 0 < found['compile_seconds'] < found['seconds']


def test_trials_differ_by_their_seeds_and_share_what_is_compiled(quick):
    one, other = quick(Trial(0, (0,))), quick(Trial(1, (0,)))
    assert one['accuracy'] != other['accuracy']
    assert one['params'] == other['params']
    assert other['compile_seconds'] < one['compile_seconds']
    again = quick(Trial(0, (0,)))
    assert again['accuracy'] == one['accuracy']
    assert (
        len({evaluator.seed(seed, Trial(number, ())) for seed in (0, 1) for number in (0, 1)}) == 4
    )


def test_repeats_are_trainings_with_seeds_of_their_own(quick):
    trial = Trial(5, (1,))
    seeds = {evaluator.seed(3, trial, repeat) for repeat in range(3)}
    assert len(seeds) == 3
    net = evaluator.compiled(quick.proxy, json.dumps(genotypes.plain(Bits().genotype((1,)))), True)
    expected = np.mean([net.trained(seed) for seed in seeds]) / 100
    assert dataclasses.replace(quick, repeats=3)(trial)['accuracy'] == pytest.approx(expected)
    assert quick(trial)['accuracy'] == net.trained(evaluator.seed(3, trial)) / 100
    with pytest.raises(UserError, match='repeats is 0'):
        Training.from_config(Bits(), config(), repeats=0)


@pytest.mark.sweep  # four trainings
def test_a_training_restarts_with_a_lower_rate():
    trial = Trial(7, (1,))
    # With 0.5 the first epoch is better than chance, with 1.25 and 3.125 it is not.
    fields = {'data.train_split': 'train[:640]', 'duration': '80 steps', 'batch': 16}
    fields |= {'model.widths': (16,)}
    rates = {lr: config(**fields, **{'optim.lr': lr}) for lr in (3.125, 1.25, 0.5)}
    plain = {
        lr: Training.from_config(Bits(), c, quick=True)(trial) for lr, c in rates.items() if lr < 3
    }
    many = Training.from_config(Bits(), rates[1.25], quick=True, restarts=5)(trial)
    assert (many['restarts'], many['accuracy']) == (1, plain[0.5]['accuracy'])
    enough = Training.from_config(Bits(), rates[0.5], quick=True, restarts=5)(trial)
    assert (enough['restarts'], enough['accuracy']) == (0, plain[0.5]['accuracy'])
    last = Training.from_config(Bits(), rates[3.125], quick=True, restarts=1)(trial)
    assert (last['restarts'], last['accuracy']) == (1, plain[1.25]['accuracy'])
    assert 'restarts' not in plain[0.5]
    with pytest.raises(UserError, match='restarts is -1'):
        Training.from_config(Bits(), config(), restarts=-1)


def test_the_test_images_are_not_seen():
    data = config().proxy.data
    assert (data.train_split, data.eval_split) == ('train[:80%]', 'train[80%:]')


def test_a_loss_that_is_not_finite_is_a_failed_trial():
    wild = Training.from_config(Bits(), config(**{'optim.lr': 1e30}), quick=True)
    with pytest.raises(loop.Failed, match='loss is not finite'):
        wild(Trial(0, (0,)))


def test_a_genotype_that_does_not_fit_is_a_failed_trial():
    with pytest.raises(loop.Failed, match='genotype does not fit'):
        Training.from_config(Broken(), config(), quick=True)(Trial(0, (0,)))


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('data.name', 'tfds:cifar11', 'cifar1'),
        ('batch', 7, 'config.batch is 7'),
        ('model.name', 'genot', 'genet'),
    ],
)
def test_a_mistake_in_the_proxy_ends_a_search(field, value, said):
    with pytest.raises(UserError, match=said):
        Training.from_config(Bits(), config(**{field: value}))


def test_a_compiler_option_is_known():
    program = jax.jit(lambda x: x + 1).lower(1.0)
    assert program.compile(compiler_options=evaluator.QUICK)(1.0) == 2.0


def test_chance_is_within_what_any_number_of_classes_can_reach():
    assert evaluator.chance_level(10) == 15  # as the authors of MetaQNN have it
    assert evaluator.chance_level(2) == 55  # 1.5 times 50 % would be 75 %
    assert evaluator.chance_level(100) == 1.5


def test_all_trials_of_a_process_share_the_data_of_their_proxy(quick, monkeypatch):
    opened, load = [], datasets.load
    monkeypatch.setattr(datasets, 'load', lambda *args: opened.append(args) or load(*args))
    monkeypatch.setattr(evaluator, '_compile', lambda setup, options: setup)
    first, other, restarted = (
        evaluator.compiled.__wrapped__(quick.proxy, genotype, True, restart)
        for genotype, restart in (('["0"]', 0), ('["1"]', 0), ('["0"]', 1))
    )
    assert first.train is other.train is restarted.train
    assert first.test is other.test is restarted.test
    assert opened == []  # when the evaluator was made
    assert first.model.genotype != other.model.genotype
    assert restarted.optim.lr == evaluator.SLOWER * first.optim.lr
