"""Defaults that every search starts from, and what its trials can be evaluated by.

The fields are those of cls/config/defaults.py. Groups with a name have the fields of what is named,
with the paper's values as defaults; see cls/search/registry.py.
"""

from collections.abc import Callable
from types import ModuleType

from ml_collections import ConfigDict

from cls.config import defaults
from cls.errors import UserError, nearest
from cls.search import registry


def base() -> ConfigDict:
    """Returns the complete set of fields; a search's file changes what is its own."""
    c = defaults.base(defaults.SEARCH)
    c.search.space = ConfigDict({'name': ''})
    c.search.searcher = ConfigDict({'name': ''})
    c.search.objective = registry.defaults('objective', 'accuracy')
    # Training trials: c.proxy is a whole training config, see use_proxy. `quick`: compiled with the
    # least effort on CPUs, for nets whose training takes seconds. `repeats`: trainings of a trial,
    # of which the mean counts. `restarts`: with 0.4 times the rate, of a training whose first epoch
    # ends no better than chance.
    c.search.evaluator = ConfigDict({'name': 'train', 'quick': False, 'repeats': 1, 'restarts': 0})
    # search.table and .columns look trials up instead: see cls/search/evaluators/table.py.
    return c


def use_proxy(c: ConfigDict, system: ModuleType, argument: str = '') -> None:
    """Trains a trial as a system's config says, without seeing the test images.

    A fifth of the digits' training images is evaluated on, of CIFAR's the last 5,000 (what most of
    the papers do).

    Args:
      c: of the search.
      system: a module of configs/, as configs.amoebanet.
      argument: which of its arms; '': digits.
    """
    c.proxy = system.get_config(argument)
    c.search.system = f'configs/{system.__name__.rpartition(".")[2]}.py'
    c.search.system += f':{argument}' if argument else ''
    data = c.proxy.data
    border = '80%' if data.name == 'digits' else '45000'
    data.train_split, data.eval_split = f'train[:{border}]', f'train[{border}:]'
    c.proxy.log_every = c.proxy.duration  # nobody reads it
    c.proxy.ema = 0.0


def use_digits_proxy(c: ConfigDict, system: ModuleType) -> None:
    """The digits, on two cores: two processes, and as little compiling as may be.

    What does not change which net is best but takes time to compile is left out: auxiliary heads
    and clipping.
    """
    use_proxy(c, system)
    c.search.evaluator.quick = True
    c.search.engine, c.search.max_concurrent = 'processes', 2
    c.proxy.optim.clip_norm = 0.0
    c.proxy.loss.aux_weight = 0.0


def use_plain_cells(c: ConfigDict, filters: int) -> None:
    """F filters for the proxy's cells and 3 F for its stem; no drop path, no auxiliary head."""
    c.proxy.model.filters, c.proxy.model.stem_filters = filters, 3 * filters
    c.proxy.model.aux_head = False
    c.proxy.model.drop_path_rate = 0.0
    c.proxy.loss.aux_weight = 0.0


def use_nasbench201(c: ConfigDict) -> None:
    """CIFAR-10: seen after 12 epochs on validation images, worth what 200 epochs test at."""
    c.search.evaluator = registry.defaults('evaluator', 'table')
    c.search.space = registry.defaults('space', 'nasbench201')
    c.search.columns.key = 'ops'
    c.search.columns.signals, c.search.columns.truth = ('c10_val_12ep',), 'c10_test_200ep'
    c.search.evaluations = 500


def use_macro(c: ConfigDict) -> None:
    """CIFAR-10: seen with one of three seeds, worth their mean."""
    c.search.evaluator = registry.defaults('evaluator', 'table')
    c.search.space = registry.defaults('space', 'nasbench_macro')
    c.search.columns.key = 'arch'
    c.search.columns.signals, c.search.columns.truth = ('acc0', 'acc1', 'acc2'), 'mean'
    c.search.evaluations = 500


def resolve(argument: str, **arms: Callable[[ConfigDict], None]) -> ConfigDict:
    """Returns the config of an arm; '' is the first of them. 'ARM,random' searches it at random.

    Raises UserError for an arm that is not there.
    """
    random = argument.split(',')[-1] == 'random'
    c = base()
    chosen(argument.removesuffix('random').removesuffix(',') if random else argument, **arms)(c)
    if random:
        c.search.searcher = registry.defaults('searcher', 'random')
    return c


def chosen(argument: str, **arms: Callable[[ConfigDict], None]) -> Callable[[ConfigDict], None]:
    """Returns the function of an arm, see `resolve`."""
    name = argument or next(iter(arms))
    if name not in arms:
        raise UserError(
            f'the search has no {argument!r}: write one of {", ".join(arms)}, and ARM,random for '
            f'random search in its place.{nearest(name, arms)}'
        )
    return arms[name]
