"""The kinds of data sets that list their examples: csv, parquet, datasets and wds."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from cls.data import hf_datasets, tables, wds
from cls.data.listed import Listed
from cls.data.table_files import SUFFIXES


class Kind(NamedTuple):
    """The functions of a kind; `rest` is the part of config.data.name after the kind.

    Attributes:
      open: (rest, 'train' or 'eval', specification, names of classes) -> source.
      has_training: (rest, specification) -> whether there are training images.
      names: (rest, specification) -> the names of the splits.
    """

    open: Callable[..., Listed]
    has_training: Callable[..., bool]
    names: Callable[..., list[str]]


KINDS = {
    **{
        kind: Kind(
            functools.partial(tables.open_table, kind),
            functools.partial(tables.has_training, kind),
            functools.partial(tables.names_of, kind),
        )
        for kind in SUFFIXES
    },
    'datasets': Kind(hf_datasets.open_dataset, hf_datasets.has_training, hf_datasets.names_of),
    'wds': Kind(wds.open_tars, wds.has_training, wds.names_of),
}
