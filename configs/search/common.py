"""Defaults that every search starts from.

A field's comment is its documentation. Groups with a name have the fields of what is named, with
the paper's values as defaults; see cls/search/registry.py.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from cls.errors import UserError, nearest
from cls.search import registry


def base() -> ConfigDict:
    """Returns the complete set of fields; a search's file changes what is its own."""
    c = ConfigDict()
    c.seed = 0  # of the searcher, and of the training of each trial together with its number

    c.search = ConfigDict()
    c.search.space = ConfigDict({'name': ''})
    c.search.searcher = ConfigDict({'name': ''})
    c.search.objective = registry.defaults('objective', 'accuracy')
    c.search.evaluations = 100  # trials in all
    c.search.at_once = 1  # trials that are evaluated at the same time
    c.search.synchronous = True  # told in the order asked: results do not depend on timing
    c.search.engine = 'here'  # here (this process) | processes (of this machine) | ray
    c.search.workers = 0  # processes; 0: as many as at_once

    # Looking trials up instead of training them: see cls/search/evaluators/table.py.
    c.search.table = ''  # a CSV file with a row for each architecture; '': trials are trained
    c.search.columns = ConfigDict()
    c.search.columns.key = ''  # the column with the space's genotypes
    c.search.columns.signals = ('',)  # columns with what the searcher sees, drawn for each trial
    c.search.columns.truth = ''  # what the report shows, never the searcher
    return c


def use_nasbench201(c: ConfigDict) -> None:
    """CIFAR-10: seen after 12 epochs on validation images, worth what 200 epochs test at."""
    c.search.space = registry.defaults('space', 'nasbench201')
    c.search.columns.key = 'ops'
    c.search.columns.signals, c.search.columns.truth = ('c10_val_12ep',), 'c10_test_200ep'
    c.search.evaluations = 500


def use_macro(c: ConfigDict) -> None:
    """CIFAR-10: seen with one of three seeds, worth their mean."""
    c.search.space = registry.defaults('space', 'nasbench_macro')
    c.search.columns.key = 'arch'
    c.search.columns.signals, c.search.columns.truth = ('acc0', 'acc1', 'acc2'), 'mean'
    c.search.evaluations = 500


def resolve(argument: str, **arms: Callable[[ConfigDict], None]) -> ConfigDict:
    """Returns the config of an arm; '' is the first of them.

    Raises UserError for an arm that is not there.
    """
    c = base()
    chosen(argument, **arms)(c)
    return c


def chosen(argument: str, **arms: Callable[[ConfigDict], None]) -> Callable[[ConfigDict], None]:
    """Returns the function of an arm, see `resolve`."""
    name = argument or next(iter(arms))
    if name not in arms:
        raise UserError(
            f'the search has no {argument!r}: write one of {", ".join(arms)}.{nearest(name, arms)}'
        )
    return arms[name]
