"""The fields of every search, and the evaluators of its trials.

The fields are documented in cls/config/defaults.py. A group with a name has the fields of the named
component, with the paper's values as defaults; see cls/search/registry.py.
"""

from collections.abc import Callable
from types import ModuleType

from ml_collections import ConfigDict

from cls.config import defaults
from cls.config.files import UnknownArm
from cls.errors import nearest
from cls.recipes.common import summary
from cls.search import registry


def base() -> ConfigDict:
    """Returns the complete set of fields with their defaults."""
    c = defaults.base(defaults.SEARCH)
    c.search.space = ConfigDict({'name': ''})
    c.search.searcher = ConfigDict({'name': ''})
    c.search.objective = registry.defaults('objective', 'accuracy')
    # c.proxy is a complete training config, see use_proxy. `quick`: little compiler optimization on
    # CPUs, for trainings of seconds. `repeats`: trainings of a trial; their mean is its result.
    # `restarts`: with 0.4 times the rate, after a first epoch that ends no better than chance.
    c.search.evaluator = ConfigDict({'name': 'train', 'quick': False, 'repeats': 1, 'restarts': 0})
    # search.table and search.columns replace training: see cls/search/evaluators/table.py.
    return c


def use_proxy(c: ConfigDict, system: ModuleType, argument: str = '') -> None:
    """Trains each trial with a system's recipe, without the test images.

    A fifth of the digits' training images is for validation, of CIFAR's the last 5,000 (as in most
    of the papers).

    Args:
      c: of the search.
      system: a recipe, for example cls.recipes.amoebanet.
      argument: the arm; '': digits.
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
    """The digits on two cores: two processes, and as little compilation as possible.

    Auxiliary heads and clipping are left out: they take time to compile and do not change the
    ranking.
    """
    use_proxy(c, system)
    c.search.evaluator.quick = True
    c.search.engine, c.search.max_concurrent = 'processes', 2
    c.proxy.optim.clip_norm = 0.0
    c.proxy.loss.aux_weight = 0.0


def use_plain_cells(c: ConfigDict, filters: int) -> None:
    """F filters for the cells and 3 F for the stem, without drop path and auxiliary head."""
    c.proxy.model.filters, c.proxy.model.stem_filters = filters, 3 * filters
    c.proxy.model.aux_head = False
    c.proxy.model.drop_path_rate = 0.0
    c.proxy.loss.aux_weight = 0.0


def use_nasbench201(c: ConfigDict) -> None:
    """CIFAR-10: validation accuracy after 12 epochs; the truth is the test accuracy after 200."""
    c.search.evaluator = registry.defaults('evaluator', 'table')
    c.search.space = registry.defaults('space', 'nasbench201')
    c.search.columns.key = 'ops'
    c.search.columns.signals, c.search.columns.truth = ('c10_val_12ep',), 'c10_test_200ep'
    c.search.evaluations = 500


def use_macro(c: ConfigDict) -> None:
    """CIFAR-10: the accuracy of one of three seeds; the truth is their mean."""
    c.search.evaluator = registry.defaults('evaluator', 'table')
    c.search.space = registry.defaults('space', 'nasbench_macro')
    c.search.columns.key = 'arch'
    c.search.columns.signals, c.search.columns.truth = ('acc0', 'acc1', 'acc2'), 'mean'
    c.search.evaluations = 500


def resolve(argument: str, **arms: Callable[[ConfigDict], None]) -> ConfigDict:
    """Returns the config of an arm, by default the first; 'ARM,random' is random search of it.

    Raises UnknownArm.
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
        raise UnknownArm(
            f'the search has no {argument!r}: write one of {", ".join(arms)}, and ARM,random for '
            f'random search in its place.{nearest(name, arms)}',
            {name: summary(function) for name, function in arms.items()},
        )
    return arms[name]
