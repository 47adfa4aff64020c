"""AmoebaNet's search, regularized evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548).

python -m cls.main --config configs/search/amoebanet.py:nasbench201 --config.search.table=FILE
python -m cls.main --config configs/search/amoebanet.py:macro --config.search.table=FILE
"""

from ml_collections import ConfigDict

from cls.search import registry
from configs.search import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: nasbench201 or macro."""
    return common.resolve(argument, nasbench201=nasbench201, macro=macro)


def nasbench201(c: ConfigDict) -> None:
    """The paper's population and sample."""
    common.use_nasbench201(c)
    c.search.searcher = registry.defaults('searcher', 'evolution')


def macro(c: ConfigDict) -> None:
    """The paper's population and sample."""
    common.use_macro(c)
    c.search.searcher = registry.defaults('searcher', 'evolution')
